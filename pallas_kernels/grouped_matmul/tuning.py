"""Tile sizes, warps and stages of the Triton grouped product: a table, read by a pure function."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pallas_kernels.section import STAGES, TILE, WARPS, Bounds, Section
from pallas_kernels.target import Target
from pallas_kernels.tuning import NO_TUNING, Table, choose, facts_of, merged, shipped_table

SECTION = Section(
    name="grouped_matmul",
    words={"dtype": ("float32", "bfloat16", "float16")},
    numbers=("rows", "share", "experts", "outs", "ins"),
    values={
        "row_tile": TILE,
        "out_tile": TILE,
        "in_tile": TILE,
        "band": Bounds(least=1, most=1024),
        "num_warps": WARPS,
        "num_stages": STAGES,
    },
)
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
        SECTION.check(asdict(self))


def tuning_for(
    target: Target, *, rows: int, experts: int, outs: int, ins: int, dtype: str, table: Table = NO_TUNING
) -> Tuning:
    """The tuning of the first entry that fits, of `table` before the shipped one.

    rows M, experts X, outs B, ins A; dtype: the weights' logical one. The fact `share` is what an expert gets of the
    rows when all get the same. Raises ValueError for an entry that is no tuning, LookupError when none fits.
    """
    facts = facts_of(target, rows=rows, share=-(-rows // experts), experts=experts, outs=outs, ins=ins, dtype=dtype)
    values = choose(merged(table, SHIPPED), SECTION.name, facts)
    SECTION.check(values)
    return Tuning(**values)
