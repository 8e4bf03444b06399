"""What a child process compiles: a function of abstract arrays, and what must be true of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """arguments: trees of `jax.ShapeDtypeStruct`. donate: the indices of those given away.

    kernels: how the names of the Pallas kernels begin that must be in the program. pool: the argument that is the KV
    pool. unsorted: sorts of this many elements, or of more, must not be in the program. most_temp: bytes of
    temporaries that it may have. updates_pool: XLA itself writes to the pool, in place as the temporaries must show.
    """

    function: Callable[..., Any]
    arguments: Sequence[Any]
    donate: tuple[int, ...] = ()
    kernels: tuple[str, ...] = ()
    pool: int | None = None
    unsorted: int | None = None
    most_temp: int | None = None
    updates_pool: bool = False

    def pool_arrays(self) -> list[jax.ShapeDtypeStruct]:
        """The arrays of the KV pool."""
        return [] if self.pool is None else jax.tree.leaves(self.arguments[self.pool])

    def nbytes(self, arguments: Any) -> int:
        """Bytes of all arrays in a tree."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments))
