"""Tile sizes, splits, warps and stages of the Triton attention kernels: a table, read by a pure function."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pallas_kernels.launch import next_power_of_two
from pallas_kernels.pool_spec import DTYPES
from pallas_kernels.section import STAGES, TILE, WARPS, Bounds, Section
from pallas_kernels.target import Target
from pallas_kernels.tuning import NO_TUNING, Table, choose, compute_units, facts_of, merged, shipped_table

CASES = ("decode", "mixed", "prefill")
PREFILL_TOKENS_PER_ROW = 64
MIN_TILES_PER_SPLIT = 4
MAX_SPLITS = 64
_SPLITS = Bounds(least=1, most=MAX_SPLITS)
SECTION = Section(
    name="ragged_attention",
    words={"case": CASES, "dtype": DTYPES},
    numbers=("head_dim", "group"),
    values={
        "q_tile": TILE,
        "kv_tile": TILE,
        "num_warps": WARPS,
        "num_stages": STAGES,
        "waves": Bounds(least=1, most=64, power_of_two=False),
    },
    optional=("waves",),
)
SHIPPED = shipped_table(Path(__file__).parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How one attention kernel is cut and compiled; tiles, splits and warps are powers of two."""

    q_tile: int  # packed (token, query head of one kv head) rows of a tile
    kv_tile: int  # key positions of a tile
    num_warps: int
    num_stages: int
    waves: int = 4  # decode: programs wanted per compute unit before a row's keys are split further
    num_splits: int = 1  # decode: programs that share one row's keys; no value of a table, it follows the shapes

    def __post_init__(self) -> None:
        values = asdict(self)
        splits = values.pop("num_splits")
        SECTION.check(values)
        assert _SPLITS.hold(splits), f"{splits} splits, must be {_SPLITS}"


def case_of(num_tokens: int, num_rows: int) -> str:
    """The compiled case of a step shape: one token a row is "decode", long rows "prefill", else "mixed"."""
    if num_tokens == num_rows:
        return "decode"
    return "prefill" if num_tokens >= PREFILL_TOKENS_PER_ROW * num_rows else "mixed"


def splits_for(programs: int, *, kv_tile: int, num_rows: int, kv_heads: int, most_keys: int) -> int:
    """Programs per decode row and kv head: enough for `programs` in all, each with a few tiles of keys to walk."""
    missing = -(-programs // (num_rows * kv_heads))
    room = max(1, min(MAX_SPLITS, most_keys // (kv_tile * MIN_TILES_PER_SPLIT)))
    return min(next_power_of_two(missing), next_power_of_two(room + 1) // 2)


def tuning_for(
    case: str,
    *,
    target: Target,
    head_dim: int,
    group: int,
    dtype: str,
    num_rows: int,
    kv_heads: int,
    most_keys: int,
    table: Table = NO_TUNING,
) -> Tuning:
    """The tuning of the first entry that fits, of `table` before the shipped one.

    group: G; dtype: the pool's logical one; most_keys: how many a query can see, by table width and window. Raises
    ValueError for an unknown case and for an entry that is no tuning, LookupError when no entry fits.
    """
    if case not in CASES:
        raise ValueError(f"case is {case!r}: it must be one of {', '.join(CASES)}")
    facts = facts_of(target, case=case, head_dim=head_dim, group=group, dtype=dtype)
    values = choose(merged(table, SHIPPED), SECTION.name, facts)
    SECTION.check(values)
    tuning = Tuning(**values)
    if case != "decode":
        return tuning
    splits = splits_for(
        compute_units(target, table) * tuning.waves,
        kv_tile=tuning.kv_tile,
        num_rows=num_rows,
        kv_heads=kv_heads,
        most_keys=most_keys,
    )
    return Tuning(**values, num_splits=splits)
