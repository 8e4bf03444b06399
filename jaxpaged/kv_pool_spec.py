"""How large a KV pool is, and for which groups. [host half: no jax]"""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaged.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class KVPoolSpec:
    """The pool: `num_blocks` (N, the null block included) of `block_size` tokens (P), for groups with these `windows`.

    windows: of each KV group, how far back its layers look, in tokens; None: at everything. Raises ConfigError.
    """

    block_size: int
    num_blocks: int
    windows: tuple[int | None, ...] = (None,)

    def __post_init__(self) -> None:
        assert self.windows, "a model has KV groups"
        least = 1 + len(self.windows)  # beside the null block one a group, or no token has a place
        for name, value, low in (("block_size", self.block_size, 1), ("num_blocks", self.num_blocks, least)):
            if value < low:
                raise ConfigError(name=name, value=value, limit=f"it must be at least {low}")
        for window in self.windows:
            if window is not None and window < 1:
                raise ConfigError(name="window", value=window, limit="it must be at least 1")
