"""What a search may change of each op that has a tuning, where it begins, and for which calls the outcome holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jaxpaged.bench.cases import AttentionCase, GroupedCase, WriteCase
from jaxpaged.bench.programs import machine_dtype
from pallas_kernels.grouped_matmul import tuning as grouped_matmul
from pallas_kernels.ragged_attention import tuning as ragged_attention
from pallas_kernels.section import Fact, Section
from pallas_kernels.target import Target
from pallas_kernels.write_kv import tuning as write_kv

Values = dict[str, int]
Space = Mapping[str, tuple[int, ...]]

REACH = 4  # what was found for a size holds down to a quarter of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How an op is searched; the functions take a case of it.

    when: the conditions of its entry, platform and kind aside. shipped: the values without a user's table. space: the
    values worth trying, by name.
    """

    section: Section
    when: Callable[[Any], dict[str, Fact]]
    shipped: Callable[[Any, Target], Any]
    space: Callable[[Any], Space]

    def conditions(self, case: Any, target: Target) -> dict[str, Fact]:
        """When what is found for this case holds."""
        return {"kind": target.kind, **self.when(case)}

    def start(self, case: Any, target: Target) -> Values:
        """The shipped values: all that an entry must have, and what is searched beside it."""
        shipped, space = self.shipped(case, target), self.space(case)
        names = [name for name in self.section.values if name not in self.section.optional or name in space]
        return {name: getattr(shipped, name) for name in names}


def _dtype(case: AttentionCase | WriteCase | GroupedCase) -> str:
    return case.dtype or machine_dtype()


def _within_reach(name: str, size: int) -> dict[str, Fact]:
    return {f"min_{name}": size // REACH + 1, f"max_{name}": size}


def _kind_of(case: AttentionCase) -> str:
    return ragged_attention.case_of(sum(case.q_lens), len(case.q_lens))


_ATTENTION_SPACES: Mapping[str, Space] = MappingProxyType(
    {
        "decode": {"kv_tile": (32, 64, 128), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3, 4), "waves": (2, 4, 8)},
        "mixed": {"q_tile": (32, 64, 128), "kv_tile": (32, 64, 128), "num_warps": (4, 8), "num_stages": (1, 2, 3)},
        "prefill": {"q_tile": (64, 128), "kv_tile": (32, 64, 128), "num_warps": (4, 8), "num_stages": (1, 2, 3)},
    }
)


def _attention_when(case: AttentionCase) -> dict[str, Fact]:
    group = case.heads // case.kv_heads
    return {"case": _kind_of(case), "head_dim": case.head_dim, "group": group, "dtype": _dtype(case)}


def _attention_shipped(case: AttentionCase, target: Target) -> ragged_attention.Tuning:
    return ragged_attention.tuning_for(
        _kind_of(case),
        target=target,
        head_dim=case.head_dim,
        group=case.heads // case.kv_heads,
        dtype=_dtype(case),
        num_rows=len(case.q_lens),
        kv_heads=case.kv_heads,
        most_keys=max(case.kv_lens),
    )


def _write_when(case: WriteCase) -> dict[str, Fact]:
    return {"head_dim": case.head_dim, "dtype": _dtype(case), **_within_reach("tokens", case.tokens)}


def _write_shipped(case: WriteCase, target: Target) -> write_kv.Tuning:
    return write_kv.tuning_for(target, tokens=case.tokens, head_dim=case.head_dim, dtype=_dtype(case))


def _write_space(case: WriteCase) -> Space:
    tiles = tuple(tile for tile in (1, 2, 4, 8, 16, 32, 64) if tile <= case.tokens)
    return {"token_tile": tiles, "num_warps": (1, 2, 4, 8)}


def _share(case: GroupedCase) -> int:
    return -(-case.rows // case.experts)


def _grouped_when(case: GroupedCase) -> dict[str, Fact]:
    shape = {"outs": case.height, "ins": case.width, "dtype": _dtype(case)}
    return {**shape, **_within_reach("share", _share(case))}


def _grouped_shipped(case: GroupedCase, target: Target) -> grouped_matmul.Tuning:
    return grouped_matmul.tuning_for(
        target, rows=case.rows, experts=case.experts, outs=case.height, ins=case.width, dtype=_dtype(case)
    )


def _grouped_space(case: GroupedCase) -> Space:
    share = _share(case)
    space: dict[str, tuple[int, ...]] = {
        "row_tile": tuple(tile for tile in (16, 32, 64, 128) if tile <= max(16, 2 * share)),
        "out_tile": (16, 32, 64, 128),
        "in_tile": (32, 64, 128, 256),
        "num_warps": (2, 4, 8),
        "num_stages": (1, 2, 3, 4),
    }
    # where an expert has one row tile, there are no neighbours to go together
    return space | ({"band": (1, 4, 8, 16)} if share > 32 else {})


SEARCHES: Mapping[str, Search] = MappingProxyType(
    {
        AttentionCase.op: Search(
            section=ragged_attention.SECTION,
            when=_attention_when,
            shipped=_attention_shipped,
            space=lambda case: _ATTENTION_SPACES[_kind_of(case)],
        ),
        WriteCase.op: Search(section=write_kv.SECTION, when=_write_when, shipped=_write_shipped, space=_write_space),
        GroupedCase.op: Search(
            section=grouped_matmul.SECTION, when=_grouped_when, shipped=_grouped_shipped, space=_grouped_space
        ),
    }
)
"""By op. `linear` has none: its products are XLA's own."""
