"""Forms become grammars, and what cannot is refused by its place."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import numpy as np
import pytest
from grammar_walk import constraint_of, mask_after, small_tokenizer, text_of, walk
from schema_table import table

from jaxpaged.answer_end import AnswerEnd
from jaxpaged.errors import GrammarError
from jaxpaged.structured.grammar import grammar_of
from jaxpaged.structured.params import StructuredOutputsParams


def answers(count: int = 12, most: int = 60, **form: Any) -> list[tuple[str, bool]]:
    tokenizer, rng = small_tokenizer(), random.Random(5)
    found = []
    for _ in range(count):
        output, whole = walk(constraint_of(tokenizer, **form), tokenizer, rng, most=most)
        found.append((text_of(tokenizer, output), whole))
    assert any(whole for _, whole in found)
    return found


@pytest.mark.parametrize(
    "pattern",
    [
        r"[a-z]{2,4}",
        r"(yes|no|maybe) \d",
        r"\d{3}-\d{4}",
        r"a*b+c?",
        r"\w{1,5}@\w{1,5}\.com",
        r"[^\n\"]{1,5}",
        r"/a/",
        r"é|日",
    ],
)
def test_answers_match_the_expression(pattern: str) -> None:
    for text, whole in answers(regex=pattern):
        assert not whole or re.fullmatch(pattern, text)


@pytest.mark.parametrize("pattern", [r"^[ab]+$", r"^(a|b)$", r"^a|b$"])
def test_anchors_are_those_of_the_whole_answer(pattern: str) -> None:
    for text, whole in answers(regex=pattern):
        assert not whole or re.fullmatch(pattern, text)


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", r"(a)\1", "a{2,1}", "[z-a]", r"\bword\b"])
def test_an_expression_that_cannot_be_is_refused(pattern: str) -> None:
    with pytest.raises(GrammarError, match="no grammar can be made of it") as caught:
        grammar_of(StructuredOutputsParams(regex=pattern))
    assert caught.value.name == "regex"


def test_answers_are_one_of_the_choices() -> None:
    choices = ['say "yes"', "no\n", "é日🙂", "a\\b", "a", "ab", "{}", "'/'"]
    found = answers(choice=choices, count=40)
    assert all(whole for _, whole in found)
    assert {text for text, _ in found} <= set(choices)
    assert len({text for text, _ in found}) > 4


def test_grammars_in_both_ways_of_writing() -> None:
    lark = 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,2}/'
    gbnf = 'root ::= number ("+" number)*\nnumber ::= [0-9] [0-9]?'
    for grammar in (lark, gbnf):
        for text, whole in answers(grammar=grammar):
            assert not whole or re.fullmatch(r"\d{1,2}(\+\d{1,2})*", text)


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ("start: missing", "no grammar can be made of it"),
        ("start: /(/", "no grammar can be made of it"),
        ("no rules", "cannot be read as GBNF"),
        ("root ::= missing", "Rule 'missing' not found"),
        ('root ::= "a', "cannot be read as GBNF"),
        ('{"grammars": []}', "cannot be read as GBNF"),
    ],
)
def test_a_grammar_that_cannot_be_is_refused(grammar: str, said: str) -> None:
    with pytest.raises(GrammarError, match=said) as caught:
        grammar_of(StructuredOutputsParams(grammar=grammar))
    assert caught.value.name == "grammar"


def test_any_object() -> None:
    for text, whole in answers(json_object=True, disable_any_whitespace=True):
        assert not whole or isinstance(json.loads(text), dict)


@pytest.mark.parametrize("case", [case for case in table() if case.refused], ids=lambda case: case.name)
def test_a_refused_schema_names_path_and_keyword(case: Any) -> None:
    with pytest.raises(GrammarError) as caught:
        grammar_of(StructuredOutputsParams(json=case.schema))
    assert caught.value.name == case.refused
    assert case.refused.rpartition(".")[2] in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"items": {"type": "string", "pattern": "(?!x)y"}}}}, "$.properties.a.items.pattern"),
        ({"anyOf": [{"type": "null"}, {"type": "string", "pattern": "("}]}, "$.anyOf[1].pattern"),
        (
            {"items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"properties": {"y": {"pattern": "("}}}}},
            "$.$defs.x.properties.y.pattern",
        ),
        (
            {"properties": {"o": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}}},
            "$.properties.o.oneOf",
        ),
        (
            {"type": "object", "patternProperties": {"^a": {"type": "null"}, "b$": {"type": "null"}}},
            "$.patternProperties",
        ),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"], "minProperties": 2}, "$.properties"),
    ],
)
def test_what_only_the_library_refuses_has_its_path_too(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(GrammarError) as caught:
        grammar_of(StructuredOutputsParams(json=schema))
    assert caught.value.name == path


CALL = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def tagged(**told: Any) -> str:
    return json.dumps(told)


def test_free_text_with_calls_in_it() -> None:
    form = tagged(structures=[{"begin": "<call>", "schema": CALL, "end": "</call>"}], triggers=["<ca"])
    for text, whole in answers(structural_tag=form, count=6):
        assert not whole or re.fullmatch(r"(?s).*(<call>\s*\{.*\}\s*</call>.*)*", text)
        assert not whole or all(rest.startswith("ll>") for rest in text.split("<ca")[1:])


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"type": "const_string", "value": "just this"}, "just this"),
        ({"type": "regex", "pattern": "[ab]{3}"}, "[ab]{3}"),
        (
            {
                "type": "sequence",
                "elements": [{"type": "const_string", "value": "x="}, {"type": "regex", "pattern": r"\d"}],
            },
            r"x=\d",
        ),
        (
            {
                "type": "or",
                "elements": [{"type": "const_string", "value": "left"}, {"type": "const_string", "value": "right"}],
            },
            "left|right",
        ),
        ({"type": "tag", "begin": "<t>", "content": {"type": "regex", "pattern": "a+"}, "end": "</t>"}, "<t>a+</t>"),
        (
            {
                "type": "tags_with_separator",
                "separator": ",",
                "at_least_one": True,
                "tags": [{"begin": "<", "content": {"type": "regex", "pattern": "[a-c]"}, "end": ">"}],
            },
            "<[a-c]>(,<[a-c]>)*",
        ),
        (
            {
                "type": "triggered_tags",
                "triggers": ["<"],
                "at_least_one": True,
                "stop_after_first": True,
                "tags": [{"begin": "<a>", "content": {"type": "const_string", "value": "1"}, "end": "</a>"}],
            },
            "(?s)[^<]*<a>1</a>",
        ),
        ({"type": "json_schema", "json_schema": {"const": 3}}, "3"),
    ],
)
def test_a_tree_of_forms(form: dict[str, Any], pattern: str) -> None:
    text = tagged(type="structural_tag", format=form)
    for answer, whole in answers(structural_tag=text, count=8):
        assert not whole or re.fullmatch(pattern, answer), answer


def test_tags_of_special_tokens() -> None:
    tokenizer = small_tokenizer()
    form = {"type": "tag", "begin": "<|call|>", "content": {"type": "json_schema", "json_schema": CALL}, "end": ""}
    output, whole = walk(
        constraint_of(
            tokenizer, structural_tag=tagged(type="structural_tag", format=form), disable_any_whitespace=True
        ),
        tokenizer,
        random.Random(1),
    )
    assert whole
    assert output[0] == tokenizer.token_id("<|call|>")
    assert json.loads(text_of(tokenizer, output[1:]))["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize(
    ("told", "path"),
    [
        ({"type": "json"}, "$.type"),
        ({"structures": [], "triggers": ["<"]}, "$.structures"),
        ({"structures": [{"begin": "<a", "schema": {}, "end": ">"}], "triggers": []}, "$.triggers"),
        ({"structures": [{"begin": "a", "schema": {}, "end": ">"}], "triggers": ["<"]}, "$.structures[0].begin"),
        (
            {"structures": [{"begin": "<", "schema": {"items": {"not": {}}}, "end": ">"}], "triggers": ["<"]},
            "$.structures[0].schema.items.not",
        ),
        ({"structures": [{"begin": "<", "sch": {}, "end": ">"}], "triggers": ["<"]}, "$.structures[0].sch"),
        ({"format": {"type": "xml"}}, "$.format.type"),
        (
            {"format": {"type": "sequence", "elements": [{"type": "const_string", "value": 3}]}},
            "$.format.elements[0].value",
        ),
        ({"format": {"type": "any_text", "exclude": ["a"]}}, "$.format.exclude"),
    ],
)
def test_a_structural_tag_that_cannot_be_is_refused(told: dict[str, Any], path: str) -> None:
    with pytest.raises(GrammarError) as caught:
        grammar_of(StructuredOutputsParams(structural_tag=json.dumps(told)))
    assert caught.value.name == path


def test_thousands_of_choices_behind_thoughts_are_kept_to() -> None:
    tokenizer, rng = small_tokenizer(), random.Random(3)
    choices = [f"choice {i} of many" for i in range(4000)]
    elements = [{"type": "const_string", "value": text} for text in choices]
    thoughts = {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"}
    tag = {"format": {"type": "sequence", "elements": [thoughts, {"type": "or", "elements": elements}]}}
    begun = tokenizer.encode("<think>hm</think>")
    constraint = constraint_of(tokenizer, structural_tag=tag)
    for _ in range(3):
        output = list(begun)
        while True:
            try:
                allowed = mask_after(constraint, output, tokenizer.vocab_size)
            except AnswerEnd:
                break
            others = [i for i in np.flatnonzero(allowed).tolist() if i not in tokenizer.eos_ids]
            if not others:
                break
            output.append(rng.choice(others))
        assert text_of(tokenizer, output).removeprefix("<think>hm</think>") in choices


@pytest.mark.parametrize("elements", [["a", "<|call|>b"], ["a", ""], ["yes", "yes please", "no"]])
def test_alternatives_of_texts_are_the_same_whatever_they_are_made_of(elements: list[str]) -> None:
    tokenizer, found = small_tokenizer(), set[str]()
    told = {"type": "or", "elements": [{"type": "const_string", "value": text} for text in elements]}
    constraint = constraint_of(tokenizer, structural_tag={"format": told})
    for i in range(40):
        output, whole = walk(constraint, tokenizer, random.Random(i))
        assert whole
        found.add(text_of(tokenizer, output))
    assert found == set(elements)
