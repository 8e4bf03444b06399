"""Which full block holds which tokens: the memory of equal prompt beginnings. [host half: no jax]

A block's key is SHA-256 over its parent's key and its own token ids, so equal keys mean equal histories from the first
token on; the chain begins with a key of the KV's dtype and the request's salt, so namespaces never meet. A hit compares
the stored tokens as well: a wrong one would serve one user's context to another.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

# domain tags: a root can never equal a block's key, whatever the salt
_ROOT = b"jaxpaged prefix root\0"
_BLOCK = b"jaxpaged prefix block\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    key: bytes
    parent: bytes
    tokens: bytes


class PrefixListener(Protocol):
    """Told of every block that enters or leaves the prefix cache, in order, while a step waits: it must be quick."""

    def stored(self, group: int, key: bytes, parent: bytes | None, tokens: Sequence[int], salt: str) -> None:
        """A block of a KV group holds `tokens` after what `parent` stands for (None: nothing), in a namespace."""
        ...

    def removed(self, group: int, key: bytes) -> None:
        """The block of that key has been given up."""
        ...

    def cleared(self) -> None:
        """All blocks of all groups have been given up."""
        ...


def root_key(salt: str, dtype: str) -> bytes:
    """The parent key of a first block, for a namespace and the dtype that K and V are held in."""
    return sha256(_ROOT + dtype.encode() + b"\0" + salt.encode("utf-8", "surrogatepass")).digest()


def block_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block that holds `tokens` after the history that `parent` stands for."""
    return sha256(_BLOCK + parent + _packed(tokens)).digest()


def extend_keys(keys: list[bytes], tokens: Sequence[int], count: int, *, block_size: int, root: bytes) -> None:
    """Append to `keys` until it holds those of the first `count` blocks of `tokens`. root: see `root_key`."""
    assert count * block_size <= len(tokens), f"{count} blocks of {block_size} are not full with {len(tokens)} tokens"
    for i in range(len(keys), count):
        parent = keys[-1] if keys else root
        keys.append(block_key(parent, tokens[i * block_size : (i + 1) * block_size]))


class PrefixIndex:
    """Keys of full blocks and the blocks that hold them; at most one block a key. Every operation is O(1) in blocks."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._blocks: dict[bytes, int] = {}
        self._entries: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        return block in self._entries

    def knows(self, key: bytes) -> bool:
        """Whether a block has this key: what `find` looks at first."""
        return key in self._blocks

    def find(self, key: bytes, parent: bytes, tokens: Sequence[int]) -> int | None:
        """The block that holds `tokens` after `parent`, or None."""
        block = self._blocks.get(key)
        if block is None:
            return None
        entry = self._entries[block]
        return block if entry.parent == parent and entry.tokens == _packed(tokens) else None

    def add(self, block: int, key: bytes, parent: bytes, tokens: Sequence[int]) -> bool:
        """Remember a full block; False, and nothing done, where another block already has the key."""
        assert len(tokens) == self.block_size, f"{len(tokens)} tokens do not fill a block of {self.block_size}"
        assert block not in self._entries, f"block {block} is known already: a sealed block never changes"
        if key in self._blocks:
            return False
        self._blocks[key] = block
        self._entries[block] = _Entry(key=key, parent=parent, tokens=_packed(tokens))
        return True

    def forget(self, block: int) -> bytes:
        """Forget a block whose content is given up; returns its key."""
        entry = self._entries.pop(block)
        assert self._blocks[entry.key] == block, f"the key of block {block} leads elsewhere"
        del self._blocks[entry.key]
        return entry.key

    def check(self) -> None:
        """Assert that keys and blocks belong together one to one, and that every key is its content's."""
        assert len(self._blocks) == len(self._entries)
        for key, block in self._blocks.items():
            entry = self._entries[block]
            assert entry.key == key == sha256(_BLOCK + entry.parent + entry.tokens).digest()


def _packed(tokens: Sequence[int]) -> bytes:
    return array("q", tokens).tobytes()
