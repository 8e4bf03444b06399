"""Every architecture that is served is proved: it has cases in the zoo, of both styles of config.json."""

from __future__ import annotations

from collections import Counter

from families.zoo import CASES

from jaxpaged.models.families import FAMILIES

NEW = frozenset()
"""Architectures that transformers 4 did not have, and so no old config.json does."""


def test_every_architecture_has_two_cases() -> None:
    counts = Counter(case.architecture for case in CASES.values())
    assert {name: counts[name] for name in FAMILIES if counts[name] < 2} == {}


def test_every_architecture_has_an_old_case() -> None:
    old = {case.architecture for case in CASES.values() if case.old_style}
    assert set(FAMILIES) - old - NEW == set()


def test_every_case_is_of_an_architecture_that_is_served() -> None:
    assert {case.architecture for case in CASES.values()} - set(FAMILIES) == set()


def test_all_cases_share_a_vocabulary() -> None:
    assert {case.vocab for case in CASES.values()} == {211}
