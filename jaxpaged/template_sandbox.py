"""Jinja as chat templates expect it, in a sandbox. [host half: no jax]

The functions and filters are those of transformers. The sandbox keeps templates from Python's insides, not from taking
for ever: that is `templating`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


def template_sandbox() -> ImmutableSandboxedEnvironment:
    """An environment of its own: nothing that a template does in it lasts."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[..., object]] = {
        **{"raise_exception": _raise, "strftime_now": _now, "namespace": _namespace},
    }
    environment.globals.update(functions)
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here its body is simply rendered, in a scope of
    its own."""

    tags = {"generation"}  # noqa: RUF012 (the name and type that jinja2 reads)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which no model was trained on
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> str:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _namespace(*values: Any, **named: Any) -> Namespace:
    """Raises SecurityError for names that begin with an underscore: Python's insides have such."""
    given = dict(*values, **named)
    for name in given:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace may not hold {name!r}")
    return Namespace(given)
