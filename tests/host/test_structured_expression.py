"""Anchors at the ends of alternatives are taken off, and nothing else is."""

from __future__ import annotations

import pytest

from jaxpaged.structured.expression import unanchored


@pytest.mark.parametrize(
    ("pattern", "bare"),
    [
        ("^a$", "a"),
        ("^a|b$", "a|b"),
        ("^(a|b)$", "(a|b)"),
        ("(^a|b$)", "(^a|b$)"),
        ("a\\$", "a\\$"),
        ("\\^a$", "\\^a"),
        ("[$^|]$", "[$^|]"),
        ("^[^a|]$", "[^a|]"),
        ("[]|^]", "[]|^]"),
        ("[[:alpha:]|]$|b", "[[:alpha:]|]|b"),
        ("[^]|]|^b", "[^]|]|b"),
        ("^", ""),
        ("^$", ""),
        ("$", ""),
        ("a|", "a|"),
        ("\\", "\\"),
        ("[a", "[a"),
        ("", ""),
    ],
)
def test_unanchored(pattern: str, bare: str) -> None:
    assert unanchored(pattern) == bare
