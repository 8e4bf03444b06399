"""docs/FAMILIES.md is what the cases are, and no case is worse than its row says."""

from __future__ import annotations

import pytest
from families.evidence import Evidence
from families.table import COLUMNS, FILE, Proof, by_architecture, facts_of, limit_of, render, row_of, written
from families.zoo import CASES

from pallas_kernels.backend import Backend

pytestmark = pytest.mark.families


def test_the_rows_are_those_of_the_zoo() -> None:
    rows = written(FILE.read_text(encoding="utf-8"))
    facts = [facts_of(cases) for _, cases in sorted(by_architecture(CASES.values()).items())]
    assert [{name: row[name] for name in facts[0]} for row in rows.values()] == facts


def test_no_case_is_worse_than_its_row_says(evidence: Evidence) -> None:
    row = written(FILE.read_text(encoding="utf-8"))[evidence.case.architecture]
    greedy = evidence.greedy()
    assert greedy.wrong == ()
    found = {
        "reference": evidence.paged_error(Backend.REFERENCE, block_size=16),
        "XLA": evidence.paged_error(Backend.XLA, block_size=64),
        "engine": greedy.error,
        "bfloat16": evidence.bfloat16_error,
    }
    assert {column: error for column, error in found.items() if not error < limit_of(row[column])} == {}


def test_a_row_is_read_as_it_was_written() -> None:
    worst = Proof(reference=2e-6, xla=4e-6, engine=3e-5, bfloat16=0.006, tokens=640, equal=639, ties=1)
    cases = [case for case in CASES.values() if case.architecture == "LlamaForCausalLM"]
    text = render([row_of(cases, worst)], transformers="5")
    row = written(text)["LlamaForCausalLM"]
    assert tuple(row) == COLUMNS
    assert [row[name] for name in ("reference", "XLA", "engine", "bfloat16", "greedy tokens", "ties")] == [
        *("< 1e-5", "< 1e-5", "< 0.0001", "< 0.01", "640 of 640", "1"),
    ]
