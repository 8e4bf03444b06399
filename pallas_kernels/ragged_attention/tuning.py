"""Tile sizes, splits, warps and stages of the Triton attention kernels: a table, read by a pure function."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pallas_kernels.launch import next_power_of_two
from pallas_kernels.target import PLATFORMS

CASES = ("decode", "mixed", "prefill")
PREFILL_TOKENS_PER_ROW = 64
MIN_TILES_PER_SPLIT = 4
MAX_SPLITS = 64
WAVES = 4  # programs wanted per compute unit before a row's keys are split further


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How one attention kernel is cut and compiled; tiles, splits and warps are powers of two."""

    q_tile: int  # packed (token, query head of one kv head) rows of a tile
    kv_tile: int  # key positions of a tile
    num_splits: int = 1  # programs that share one decode row's keys
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        for field, least in (("q_tile", 16), ("kv_tile", 16), ("num_splits", 1), ("num_warps", 1)):
            value = getattr(self, field)
            if value < least or value & (value - 1):
                raise ValueError(f"Tuning.{field} is {value}: it must be a power of two >= {least}")
        if self.num_stages < 1:
            raise ValueError(f"Tuning.num_stages is {self.num_stages}: it must be >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the table: where it holds (None: anywhere) and what it says."""

    case: str | None = None
    platform: str | None = None
    max_head_dim: int | None = None
    max_itemsize: int | None = None
    q_tile: int
    kv_tile: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        if self.case not in (None, *CASES):
            raise ValueError(f"case is {self.case!r}: it must be one of {', '.join(CASES)}")
        if self.platform not in (None, *PLATFORMS):
            raise ValueError(f"platform is {self.platform!r}: it must be one of {', '.join(PLATFORMS)}")

    def fits(self, case: str, platform: str, head_dim: int, itemsize: int) -> bool:
        """Whether every condition holds."""
        return (
            self.case in (None, case)
            and self.platform in (None, platform)
            and (self.max_head_dim is None or head_dim <= self.max_head_dim)
            and (self.max_itemsize is None or itemsize <= self.max_itemsize)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningTable:
    """Entries in order of preference, and the compute units (SMs, CUs) of each platform's usual device."""

    compute_units: tuple[tuple[str, int], ...]
    entries: tuple[Entry, ...]


def read_table(path: Path) -> TuningTable:
    """The table of a json file: {"compute_units": {platform: n}, "entries": [{conditions..., values...}]}."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return TuningTable(
        compute_units=tuple(raw["compute_units"].items()),
        entries=tuple(Entry(**entry) for entry in raw["entries"]),
    )


TABLE = read_table(Path(__file__).with_name("tuning.json"))


def case_of(num_tokens: int, num_rows: int) -> str:
    """The compiled case of a step shape: one token a row is "decode", long rows "prefill", else "mixed"."""
    if num_tokens == num_rows:
        return "decode"
    return "prefill" if num_tokens >= PREFILL_TOKENS_PER_ROW * num_rows else "mixed"


def splits_for(units: int, *, kv_tile: int, num_rows: int, kv_heads: int, most_keys: int) -> int:
    """Programs per decode row and kv head: enough to fill the device, each with a few tiles of keys to walk."""
    missing = -(-units * WAVES // (num_rows * kv_heads))
    room = max(1, min(MAX_SPLITS, most_keys // (kv_tile * MIN_TILES_PER_SPLIT)))
    return min(next_power_of_two(missing), next_power_of_two(room + 1) // 2)


def tuning_for(
    case: str,
    *,
    platform: str,
    head_dim: int,
    itemsize: int,
    num_rows: int,
    kv_heads: int,
    most_keys: int,
    table: TuningTable = TABLE,
) -> Tuning:
    """The tuning of the first entry that fits.

    itemsize: bytes of a stored key element; most_keys: how many a query can see, by table width and window.
    Raises ValueError for an unknown case or platform, LookupError when no entry of the table fits.
    """
    if case not in CASES:
        raise ValueError(f"case is {case!r}: it must be one of {', '.join(CASES)}")
    units = dict(table.compute_units).get(platform)
    if units is None:
        raise ValueError(f"platform is {platform!r}: it must be one of {', '.join(dict(table.compute_units))}")
    entry = next((e for e in table.entries if e.fits(case, platform, head_dim, itemsize)), None)
    if entry is None:
        raise LookupError(f"no tuning for {case} on {platform}, head_dim {head_dim}, {itemsize} bytes an element")
    splits = 1
    if case == "decode":
        splits = splits_for(units, kv_tile=entry.kv_tile, num_rows=num_rows, kv_heads=kv_heads, most_keys=most_keys)
    return Tuning(
        q_tile=entry.q_tile,
        kv_tile=entry.kv_tile,
        num_splits=splits,
        num_warps=entry.num_warps,
        num_stages=entry.num_stages,
    )
