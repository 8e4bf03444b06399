"""Anchors at the ends of alternatives are taken off, and nothing else is."""

from __future__ import annotations

import random

import pytest
from grammar_walk import constraint_of, small_tokenizer, text_of, walk

from jaxpaged.errors import GrammarError
from jaxpaged.structured.expression import unanchored
from jaxpaged.structured.grammar import grammar_of
from jaxpaged.structured.params import StructuredOutputsParams


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


@pytest.mark.parametrize("pattern", ["a\\", "\\", "a\\\\\\", "^a|b\\"])
def test_one_that_ends_within_an_escape_is_refused(pattern: str) -> None:
    with pytest.raises(GrammarError, match=r"regex is .*: it ends in a backslash"):
        grammar_of(StructuredOutputsParams(regex=pattern))
    told = {"type": "sequence", "elements": [{"type": "regex", "pattern": pattern}]}
    with pytest.raises(GrammarError) as caught:
        grammar_of(StructuredOutputsParams(structural_tag={"format": told}))
    assert caught.value.name == "$.format.elements[0].pattern"


def test_an_escaped_backslash_at_the_end_is_one() -> None:
    tokenizer = small_tokenizer()
    output, whole = walk(constraint_of(tokenizer, regex=r"a\\"), tokenizer, random.Random(1))
    assert whole
    assert text_of(tokenizer, output) == "a\\"
