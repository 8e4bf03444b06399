"""How answers of a form are made where a request does not say: the value of --structured-outputs-config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from jaxpaged.errors import ConfigError
from jaxpaged.json_option import option_object

_FLAG = "structured_outputs_config"
_BACKENDS = ("auto", "guidance", "xgrammar", "outlines", "lm-format-enforcer")
_SWITCHES = ("disable_any_whitespace", "disable_additional_properties")
_ELSEWHERE: Mapping[str, tuple[tuple[Any, ...], str]] = MappingProxyType(
    {
        "reasoning_parser": ((None, ""), "Use --reasoning-parser"),
        "reasoning_parser_plugin": ((None, ""), "No code is loaded from outside: leave it out"),
        "enable_in_reasoning": ((None, False), "Leave it out"),
        "disable_fallback": ((None, False, True), ""),
    }
)
"""Keys of vLLM's that do nothing here: values that ask for nothing, and what to do instead of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsConfig:
    """Names and defaults are vLLM's. Raises ConfigError naming the key and its value."""

    backend: str = "auto"
    """What makes grammars: llguidance, whichever of vLLM's names is given."""
    disable_any_whitespace: bool = False
    """JSON without whitespace between its parts, unless a request has a whitespace_pattern."""
    disable_additional_properties: bool = False
    """Objects of a schema with `properties` have no others, unless it says additionalProperties."""

    def __post_init__(self) -> None:
        if self.backend not in _BACKENDS:
            raise _refused("backend", self.backend, f"it must be one of {', '.join(_BACKENDS)}")
        for name in _SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise _refused(name, value, "it must be true or false")


def structured_outputs_config(value: object) -> StructuredOutputsConfig:
    """The config in an object, or in the JSON text of one. Raises ConfigError."""
    if isinstance(value, StructuredOutputsConfig):
        return value
    keys = option_object(_FLAG, value, fix='As in {"disable_any_whitespace": true}')
    known = [field.name for field in fields(StructuredOutputsConfig)]
    given = {}
    for name, asked in keys.items():
        if name in known:
            given[name] = asked
            continue
        neutral, instead = _ELSEWHERE.get(name, ((), ""))
        if any(asked is one or asked == one for one in neutral):
            continue
        near = get_close_matches(str(name), [*known, *_ELSEWHERE], n=1)
        fix = instead or (f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(known)}")
        raise _refused(str(name), asked, "it is not served" if name in _ELSEWHERE else "there is no such key", fix)
    return StructuredOutputsConfig(**given)


def _refused(name: str, value: object, limit: str, fix: str = "") -> ConfigError:
    return ConfigError(name=f"{_FLAG}.{name}", value=value, limit=limit, fix=fix)
