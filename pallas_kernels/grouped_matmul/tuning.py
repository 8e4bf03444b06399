"""Tile sizes, warps and stages of the Triton grouped product: a table, read by a pure function."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from pallas_kernels.target import Target
from pallas_kernels.tuning import NO_TUNING, Table, choose, facts_of, merged, shipped_table

SECTION = "grouped_matmul"
SHIPPED = shipped_table(Path(__file__).parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the product is cut and compiled; all but the stages are powers of two."""

    row_tile: int  # rows of one expert
    out_tile: int  # of B
    in_tile: int  # of A, one turn of the loop
    band: int  # neighbouring row tiles that go together over the columns, so that both operands stay in the cache
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        least = {"row_tile": 16, "out_tile": 16, "in_tile": 16, "band": 1, "num_warps": 1}
        for field, bound in least.items():
            value = getattr(self, field)
            if value < bound or value & (value - 1):
                raise ValueError(f"tuning of {SECTION}: {field} is {value}: it must be a power of two >= {bound}")
        if self.num_stages < 1:
            raise ValueError(f"tuning of {SECTION}: num_stages is {self.num_stages}: it must be >= 1")


def tuning_for(
    target: Target, *, rows: int, experts: int, outs: int, ins: int, dtype: str, table: Table = NO_TUNING
) -> Tuning:
    """The tuning of the first entry that fits, of `table` before the shipped one.

    rows M, experts X, outs B, ins A; dtype: the weights' logical one. The fact `share` is what an expert gets of the
    rows when all get the same. Raises ValueError for an entry that is no tuning, LookupError when none fits.
    """
    facts = facts_of(target, rows=rows, share=-(-rows // experts), experts=experts, outs=outs, ins=ins, dtype=dtype)
    values = choose(merged(table, SHIPPED), SECTION, facts)
    if odd := {field.name for field in fields(Tuning)} ^ set(values):
        raise ValueError(f"tuning of {SECTION} {values}: {', '.join(sorted(odd))} missing or unknown")
    return Tuning(**values)
