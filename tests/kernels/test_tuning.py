"""Tuning tables: what fits, what goes before what, what is refused; and the shipped table of attention."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import pytest

import pallas_kernels
from jaxpaged.errors import ConfigError
from jaxpaged.tuning import SECTIONS, read_tuning, tuning_path, user_tuning
from pallas_kernels.pool_spec import DTYPES
from pallas_kernels.ragged_attention.tuning import CASES, SHIPPED, Tuning, case_of, splits_for, tuning_for
from pallas_kernels.target import Target
from pallas_kernels.tuning import SECTIONS as TUNING_SECTIONS
from pallas_kernels.tuning import Entry, Table, as_json, choose, compute_units, load_table, merged, values_of

H200 = Target(platform="cuda", kind="NVIDIA H200")
MI300X = Target(platform="rocm", kind="gfx942")


def entry(**when: str | int | tuple[str | int, ...]) -> Entry:
    conditions = tuple((name, fact if isinstance(fact, tuple) else (fact,)) for name, fact in when.items())
    return Entry(section="write_kv", when=conditions, use=(("token_tile", 16), ("num_warps", 4)))


def test_an_entry_fits_where_all_conditions_hold() -> None:
    facts = {"platform": "cuda", "kind": "NVIDIA H200", "head_dim": 128}
    assert entry().fits(facts)
    assert entry(kind="h200", head_dim=128).fits(facts)
    assert entry(kind=("MI300X", "H200")).fits(facts)
    assert entry(max_head_dim=128, head_dim=(64, 128)).fits(facts)
    assert not entry(kind="H100").fits(facts)
    assert not entry(max_head_dim=127).fits(facts)
    assert entry(min_head_dim=128, max_head_dim=128).fits(facts)
    assert not entry(min_head_dim=129).fits(facts)
    assert not entry(platform="cuda", head_dim=(64, 80)).fits(facts)


def test_a_condition_on_no_fact_is_refused_even_after_one_that_fails() -> None:
    with pytest.raises(ValueError, match=r"no fact for the condition 'hed_dim': it knows platform"):
        entry(platform="rocm", hed_dim=64).fits({"platform": "cuda"})


def test_the_first_table_goes_first() -> None:
    ours = Table(entries=(Entry(section="write_kv", when=(("head_dim", (64,)),), use=(("token_tile", 8),)),))
    both = merged(ours, Table(entries=(entry(),)))
    assert choose(both, "write_kv", {"head_dim": 64}) == {"token_tile": 8}
    assert choose(both, "write_kv", {"head_dim": 128}) == {"token_tile": 16, "num_warps": 4}
    with pytest.raises(LookupError, match=r"no tuning of write_kv for head_dim 128"):
        choose(ours, "write_kv", {"head_dim": 128})


def test_a_table_survives_a_file(tmp_path: Path) -> None:
    table = Table(entries=(entry(kind=("a", "b"), max_head_dim=64), entry()))
    path = tmp_path / "tuning.json"
    path.write_text(as_json(table))
    assert load_table(path) == table
    assert values_of(table.entries, "kind") == ("a", "b")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("{", "Expecting property name"),
        ([], "it holds a list"),
        ({"raged_attention": [{"use": {"q_tile": 16}}]}, "section is 'raged_attention'"),
        ({"write_kv": [{"when": {}}]}, "must be an object of `use`"),
        ({"writekv": []}, "section is 'writekv'"),
        ({"write_kv": [{"use": {"tokens": 1}}, {"use": {"tokens": "16"}}]}, "entry 2 of write_kv: tokens is '16'"),
        ({"write_kv": [{"when": {"head_dim": None}, "use": {"tokens": 16}}]}, "condition 'head_dim'"),
        ({"write_kv": 3}, "not iterable"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, raw: object, message: str) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    with pytest.raises(ValueError, match=message) as caught:
        load_table(path)
    assert str(path) in str(caught.value)


def test_the_users_table_is_read_from_where_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAXPAGED_TUNING", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuning_path() == tmp_path / "jaxpaged" / "tuning.json"
    assert user_tuning() == Table()
    asked = tmp_path / "mine.json"
    monkeypatch.setenv("JAXPAGED_TUNING", str(asked))
    with pytest.raises(ConfigError, match=r"mine.json.*No such file.*set JAXPAGED_TUNING"):
        user_tuning()
    asked.write_text(as_json(Table(entries=(entry(),))))
    assert user_tuning() == Table(entries=(entry(),))


@pytest.mark.parametrize(
    ("section", "entry", "message"),
    [
        (
            "write_kv",
            {"use": {"token_tile": 48, "num_warps": 2}},
            "token_tile .* is 48: it must be a power of two from 1",
        ),
        ("write_kv", {"use": {"token_tile": 4, "warps": 2}}, r"use .*'warps': 2}: num_warps missing"),
        (
            "write_kv",
            {"use": {"token_tile": 4, "num_warps": 2, "stages": 1}},
            "stages .* is 1: it is unknown: there are",
        ),
        (
            "write_kv",
            {"when": {"tokns": 4}, "use": {"token_tile": 4, "num_warps": 2}},
            "tokns .* is 4: no such condition",
        ),
        ("write_kv", {"when": {"max_dtype": "int8"}, "use": {"token_tile": 4, "num_warps": 2}}, "no such condition"),
        ("write_kv", {"when": {"dtype": "int4"}, "use": {"token_tile": 4, "num_warps": 2}}, "one of float32, bfloat16"),
        ("write_kv", {"when": {"min_tokens": "4"}, "use": {"token_tile": 4, "num_warps": 2}}, "must be a whole number"),
        ("write_kv", {"when": {"platform": "gpu"}, "use": {"token_tile": 4, "num_warps": 2}}, "one of cpu, cuda, rocm"),
        ("device", {"use": {"compute_units": 0}}, "compute_units .* is 0: it must be a whole number from 1 to 4096"),
        (
            "ragged_attention",
            {"use": {"q_tile": 16, "kv_tile": 2048, "num_warps": 4, "num_stages": 1}},
            "kv_tile .* is 2048: it must be a power of two from 16 to 1024",
        ),
        (
            "grouped_matmul",
            {"use": {"row_tile": 16, "out_tile": 16, "in_tile": 16, "band": 1, "num_warps": 64, "num_stages": 1}},
            "num_warps .* is 64: it must be a power of two from 1 to 32",
        ),
    ],
)
def test_an_entry_that_no_kernel_can_be_cut_by_is_named(
    section: str, entry: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"device": {"compute_units": 66}, "write_kv": {"token_tile": 4, "num_warps": 2}}
    path = tmp_path / "tuning.json"
    lines = [*([{"use": good[section]}] if section in good else []), entry]
    path.write_text(json.dumps({section: lines}))
    monkeypatch.setenv("JAXPAGED_TUNING", str(path))
    with pytest.raises(ConfigError, match=message) as caught:
        user_tuning()
    assert f"of entry {len(lines)} of {section} in the tuning table {path} is" in str(caught.value)
    assert str(caught.value).endswith("Mend or remove the file, or set JAXPAGED_TUNING to another")


def test_the_shipped_tables_hold_nothing_that_a_users_may_not() -> None:
    folders = [Path(pallas_kernels.__file__).parent / name for name in ("", *SECTIONS) if name != "device"]
    tables = {folder.name: read_tuning(folder / "tuning.json") for folder in folders}
    assert set(SECTIONS) == set(TUNING_SECTIONS)
    assert {entry.section for table in tables.values() for entry in table.entries} == set(SECTIONS)


def test_compute_units_of_known_and_unknown_devices() -> None:
    assert compute_units(H200) == 132
    assert compute_units(MI300X) == compute_units(Target(platform="rocm", kind="AMD Instinct MI300X")) == 304
    assert compute_units(Target(platform="rocm", kind="gfx1100")) == 304
    mine = Table(entries=(Entry(section="device", when=(("kind", ("H200",)),), use=(("compute_units", 66),)),))
    assert compute_units(H200, mine) == 66


# attention

ask = partial(tuning_for, target=H200, head_dim=128, group=4, dtype="bfloat16", num_rows=8, kv_heads=8, most_keys=32768)


def test_case_of() -> None:
    assert [case_of(8, 8), case_of(64, 8), case_of(512, 8)] == ["decode", "mixed", "prefill"]


@pytest.mark.parametrize(
    ("num_rows", "most_keys", "splits"),
    [(1, 32768, 64), (8, 32768, 16), (8, 2048, 8), (8, 100, 1), (64, 32768, 2), (256, 32768, 1)],
)
def test_splits_fill_the_device(num_rows: int, most_keys: int, splits: int) -> None:
    assert splits_for(4 * 132, kv_tile=64, num_rows=num_rows, kv_heads=8, most_keys=most_keys) == splits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_the_shipped_table_serves_every_shape(case: str, dtype: str) -> None:
    width = jnp.dtype(dtype).itemsize
    for target in (Target(platform="cpu"), H200, MI300X, Target(platform="rocm", kind="gfx1100")):
        for head_dim in (64, 80, 128, 256, 512):
            for group in (1, 4, 7, 32):
                tuning = ask(case, target=target, head_dim=head_dim, group=group, dtype=dtype)
                # K and V tiles of every stage fit the 64 KiB of a gfx942 compute unit
                tile = tuning.kv_tile * max(head_dim, 64) * width
                assert target.platform != "rocm" or 2 * tile * tuning.num_stages <= 65536


def test_a_users_entry_goes_before_the_shipped_ones() -> None:
    use = {"q_tile": 32, "kv_tile": 128, "num_warps": 2, "num_stages": 1, "waves": 1}
    mine = Table(
        entries=(Entry(section="ragged_attention", when=(("group", (4,)),), use=tuple(use.items())),),
    )
    assert ask("decode", table=mine) == Tuning(q_tile=32, kv_tile=128, num_warps=2, num_stages=1, waves=1, num_splits=4)
    assert ask("decode", table=mine, group=8) == ask("decode", group=8)
    assert ask("mixed", table=mine).num_splits == 1


def test_what_is_no_tuning_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kv_tile is 48: it must be a power of two from 16"):
        Tuning(q_tile=16, kv_tile=48, num_warps=4, num_stages=1)
    with pytest.raises(ValueError, match=r"waves is 0"):
        Tuning(q_tile=16, kv_tile=16, num_warps=4, num_stages=1, waves=0)
    with pytest.raises(ValueError, match=r"case is 'verify'"):
        ask("verify")


def test_every_shipped_entry_is_a_tuning() -> None:
    assert {entry.section for entry in SHIPPED.entries} == {"ragged_attention"}
    for entry in SHIPPED.entries:
        Tuning(**dict(entry.use))
