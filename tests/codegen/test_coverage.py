"""The gates reach every entry of the shipped tuning tables, and every entry can be reached. Compiles nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from codegen.kernels import KERNELS, POOL_DTYPES, SECTIONS
from codegen.upstream import CHIPS

from pallas_kernels.grouped_matmul.tuning import SHIPPED as GROUPED
from pallas_kernels.ragged_attention.tuning import CASES
from pallas_kernels.ragged_attention.tuning import SHIPPED as ATTENTION
from pallas_kernels.target import Target
from pallas_kernels.tuning import DEVICES, Entry, Fact, Table, facts_of
from pallas_kernels.write_kv.tuning import SHIPPED as WRITE

TABLES = {"ragged_attention": ATTENTION, "write_kv": WRITE, "grouped_matmul": GROUPED}
CALLS: dict[str, dict[str, tuple[Fact, ...]]] = {  # what the ops are asked for, on both sides of every limit
    "device": {},
    "ragged_attention": {"case": CASES, "dtype": POOL_DTYPES, "head_dim": (64, 128, 256), "group": (4,)},
    "write_kv": {"tokens": (512, 513), "head_dim": (128,), "dtype": POOL_DTYPES},
    "grouped_matmul": {
        "rows": (1,),
        "share": (16, 32, 96, 97),
        "experts": (8,),
        "outs": (8192, 8193),
        "ins": (4096,),
        "dtype": ("bfloat16", "float16", "float32"),
    },
}
CUDA = ("NVIDIA H200", "NVIDIA H100", "NVIDIA A100", "")
ROCM = ("AMD Instinct MI300X", "AMD Instinct MI355X", "gfx942", "gfx950", "")
TARGETS = [
    Target(platform=p, kind=kind) for p, kinds in (("cuda", CUDA), ("rocm", ROCM), ("cpu", ("",))) for kind in kinds
]


def chosen(table: Table, target: Target, facts: dict[str, Fact]) -> Entry:
    return next(entry for entry in table.entries if entry.fits(facts_of(target, **facts)))


def calls(section: str) -> Iterator[dict[str, Any]]:
    names = CALLS[section]
    yield from (dict(zip(names, values, strict=True)) for values in product(*names.values()))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("section", TABLES)
def test_every_entry_of_a_chip_is_compiled(section: str, chip: str) -> None:
    target = Target(platform=CHIPS[chip].platform, kind=CHIPS[chip].kind)
    table, of_the_pool = TABLES[section], section != "grouped_matmul"

    def key(facts: dict[str, Fact]) -> tuple[Entry, Fact]:
        return chosen(table, target, facts), facts["dtype"] if of_the_pool else ""

    compiled = {key(case.facts) for case in KERNELS.values() if SECTIONS[type(case)] == section}
    assert {key(facts) for facts in calls(section)} - compiled == set()


@pytest.mark.parametrize(("section", "table"), [("device", DEVICES), *TABLES.items()])
def test_every_entry_is_reached_somewhere(section: str, table: Table) -> None:
    reached = {chosen(table, target, facts) for target, facts in product(TARGETS, calls(section))}
    assert [entry for entry in table.entries if entry not in reached] == []


@pytest.mark.parametrize(("section", "table"), [("device", DEVICES), *TABLES.items()])
def test_calls_lie_on_both_sides_of_every_limit(section: str, table: Table) -> None:
    limits = {
        (name[4:], most)
        for entry in table.entries
        for name, wanted in entry.when
        for most in wanted
        if name[:4] == "max_"
    }
    assert [(name, most) for name, most in sorted(limits) if most not in CALLS[section][name]] == []
