"""What is asked of an answer's form, as one grammar that llguidance reads. [host half: no jax]"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from jaxpaged.errors import GrammarError
from jaxpaged.structured.blame import blamed
from jaxpaged.structured.expression import expression
from jaxpaged.structured.library import fault_of
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.schema import Normal, normalised, read_schema
from jaxpaged.structured.tags import tags_grammar

_ANY_OBJECT = '{"type":"object"}'
_WHITESPACE = r" |\r?\n[ \t]{0,20}"
"""Between the parts of JSON: a blank, or a line break and an indentation. Any whitespace would let a model go on with
it for ever."""
_NONE: Mapping[str, int] = MappingProxyType({})

Fault = Callable[[str], str | None]
"""What is wrong with a grammar, None where nothing is."""


def grammar_of(params: StructuredOutputsParams, *, special: Mapping[str, int] = _NONE, vetted: bool = False) -> str:
    """The grammar, checked. Any thread may call it; most take a millisecond, the worst that passes a second.

    special: the special tokens by their texts, which a structural tag may begin or end with. vetted: it was checked
    before, or is by who makes a matcher of it: not here, which takes as long as that.
    Raises GrammarError: for a schema it names the JSON path of what is wrong.
    """
    fault = _no_fault if vetted else fault_of
    match params.kind:
        case "json":
            assert isinstance(params.json, str)
            return _schema_grammar(params.json, params, fault)
        case "json_object":
            return _schema_grammar(_ANY_OBJECT, params, fault)
        case "regex":
            assert params.regex is not None
            return _checked(
                _lark(f"start: {expression(params.regex, name='regex')}"), fault, name="regex", value=params.regex
            )
        case "choice":
            assert params.choice is not None
            options = " | ".join(json.dumps(text, ensure_ascii=False) for text in params.choice)
            # one terminal: as alternatives of a rule, thousands of texts are followed one by one
            return _checked(_lark(f"start: CHOICE\nCHOICE: {options}"), fault, name="choice", value=params.choice)
        case "grammar":
            assert params.grammar is not None
            return _checked(_lark(_as_lark(params.grammar)), fault, name="grammar", value=params.grammar)
        case _:
            assert isinstance(params.structural_tag, str)
            grammar = _lark(tags_grammar(params.structural_tag, partial(_normal, params), special))
            return _checked(grammar, fault, name="structural_tag", value=params.structural_tag)


def _no_fault(grammar: str) -> str | None:
    del grammar
    return None


def _schema_grammar(text: str, params: StructuredOutputsParams, fault: Fault) -> str:
    normal = normalised(read_schema(text), closed=_closed(params))
    grammar = _of_schema(_laid_out(normal, params))
    if said := fault(grammar):
        raise blamed(normal, said, lambda schema: fault_of(_of_schema(schema)))
    return grammar


def _normal(params: StructuredOutputsParams, schema: Any) -> dict[str, Any]:
    return _laid_out(normalised(schema, closed=_closed(params)), params)


def _closed(params: StructuredOutputsParams) -> bool:
    return params.disable_additional_properties


def _laid_out(normal: Normal, params: StructuredOutputsParams) -> dict[str, Any]:
    """A schema that says, too, how JSON is laid out."""
    layout: dict[str, Any] = {"whitespace_flexible": not params.disable_any_whitespace}
    if params.whitespace_pattern is not None:
        layout["whitespace_pattern"] = params.whitespace_pattern
    elif not params.disable_any_whitespace:
        layout["whitespace_pattern"] = _WHITESPACE
    return {"x-guidance": layout, **normal.schema}


def _of_schema(schema: Mapping[str, Any]) -> str:
    return json.dumps({"grammars": [{"json_schema": schema}]}, ensure_ascii=False, separators=(",", ":"))


def _lark(text: str) -> str:
    # as a part of JSON: a text that begins with a brace would else be read as a list of grammars
    return json.dumps({"grammars": [{"lark_grammar": text}]}, ensure_ascii=False)


def _as_lark(text: str) -> str:
    """A grammar in Lark's way of writing; what has ::= in it is GBNF."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return any_to_lark(text)
    except RecursionError:
        raise GrammarError(name="grammar", value=text, limit="it is nested too deeply") from None
    except Exception as error:  # of the converter, which has no class for them
        limit = f"it cannot be read as GBNF: {str(error)[:300]}"
        raise GrammarError(name="grammar", value=text, limit=limit) from None


def _checked(grammar: str, fault: Fault, *, name: str, value: object) -> str:
    if said := fault(grammar):
        raise GrammarError(name=name, value=value, limit=f"no grammar can be made of it: {said}")
    return grammar
