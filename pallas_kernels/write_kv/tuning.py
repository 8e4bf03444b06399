"""How many tokens a program of the Triton pool writer takes, and with how many warps: a table, read by a pure function.

Not measured: few tokens a program in decode, so that a small step still has programs for most of the device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pallas_kernels.pool_spec import DTYPES
from pallas_kernels.section import WARPS, Bounds, Section
from pallas_kernels.target import Target
from pallas_kernels.tuning import NO_TUNING, Table, choose, facts_of, merged, shipped_table

SECTION = Section(
    name="write_kv",
    words={"dtype": DTYPES},
    numbers=("tokens", "head_dim"),
    values={"token_tile": Bounds(least=1, most=1024), "num_warps": WARPS},
)
SHIPPED = shipped_table(Path(__file__).parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """token_tile: tokens of one head that a program writes. Both are powers of two."""

    token_tile: int
    num_warps: int

    def __post_init__(self) -> None:
        SECTION.check(asdict(self))


def tuning_for(target: Target, *, tokens: int, head_dim: int, dtype: str, table: Table = NO_TUNING) -> Tuning:
    """The tuning of the first entry that fits a step of T tokens, of `table` before the shipped one.

    dtype: the pool's logical one. Raises ValueError for an entry that is no tuning, LookupError when none fits.
    """
    facts = facts_of(target, tokens=tokens, head_dim=head_dim, dtype=dtype)
    values = choose(merged(table, SHIPPED), SECTION.name, facts)
    SECTION.check(values)
    return Tuning(**values)
