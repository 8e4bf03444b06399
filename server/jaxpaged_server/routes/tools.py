"""What a request asks about tools: which there are, whether they are to be called, and what the template is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from jaxpaged.dialects.dialect import Dialect
from jaxpaged_server.api.parse import BodyError
from jaxpaged_server.api.tools import ChosenTool, Tool, ToolChoice
from jaxpaged_server.settings import ServerConfig

_AUTO_FIX = "Start it with --enable-auto-tool-choice and --tool-call-parser, or ask for required or a named function"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPlan:
    """choice: what is done about tools. schemas: of the functions that may be called, by name, each the JSON schema of
    an object; none where calls are not looked for. places: of these schemas in the body.

    shown: what the chat template is told of tools; None: nothing. strict: names of functions whose arguments are held
    to their schemas although the model chooses whether to call them. one: whether it may call one only.
    """

    choice: Literal["none", "auto", "required", "named"] = "none"
    schemas: Mapping[str, Mapping[str, Any]]
    places: Mapping[str, str]
    shown: list[dict[str, Any]] | None = None
    strict: frozenset[str] = frozenset()
    one: bool = False

    @property
    def is_forced(self) -> bool:
        """Whether the answer must be calls."""
        return self.choice in ("required", "named")


def plan_tools(
    tools: list[Tool] | None,
    choice: ToolChoice | None,
    *,
    parallel: bool | None,
    settings: ServerConfig,
    dialect: Dialect,
) -> ToolPlan:
    """The plan of a request. Raises BodyError naming the field at fault."""
    if not tools:
        if choice not in (None, "none"):
            limit = "there are no tools to choose from"
            raise _error("tool_choice", _shown(choice), limit, "Give tools, or leave it out")
        return ToolPlan(schemas={}, places={})
    schemas, places = _schemas(tools)
    word = "named" if isinstance(choice, ChosenTool) else choice or "auto"
    shown = shown_tools(tools)
    if word == "none":
        hidden = settings.exclude_tools_when_tool_choice_none
        return ToolPlan(schemas={}, places={}, shown=None if hidden else shown)
    if word == "auto" and (dialect.calls is None or not settings.enable_auto_tool_choice):
        raise _error("tool_choice", word, "the server does not know how its model writes calls", _AUTO_FIX)
    if isinstance(choice, ChosenTool):
        name = choice.function.name
        if name not in schemas:
            limit = "there is no tool of this name"
            raise _error("tool_choice.function.name", name, limit, f"There are {', '.join(schemas)}")
        schemas = {name: schemas[name]}
    return ToolPlan(
        choice=word,
        schemas=schemas,
        places=places,
        shown=shown,
        strict=frozenset(tool.function.name for tool in tools if tool.function.strict),
        one=parallel is False or word == "named",
    )


def shown_tools(tools: list[Tool]) -> list[dict[str, Any]]:
    """The tools for a template, in their order; `strict` is not for the model."""
    return [
        {"type": tool.type, "function": msgspec.to_builtins(msgspec.structs.replace(tool.function, strict=None))}
        for tool in tools
    ]


def _schemas(tools: list[Tool]) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """The schemas by name, and their places. Raises BodyError."""
    schemas: dict[str, Mapping[str, Any]] = {}
    places: dict[str, str] = {}
    for i, tool in enumerate(tools):
        function, place = tool.function, f"tools[{i}].function"
        if function.name in schemas:
            limit = "another tool has this name"
            raise _error(f"{place}.name", function.name, limit, "Give each a name of its own")
        given = function.parameters or {}
        if given.get("type", "object") != "object":
            limit = "the arguments of a function are an object"
            raise _error(f"{place}.parameters.type", given["type"], limit, 'Make it "object"')
        if not isinstance(given.get("properties", {}), dict):
            raise _error(f"{place}.parameters.properties", given["properties"], "it must be an object of schemas")
        schemas[function.name] = {"type": "object", **given}
        places[function.name] = f"{place}.parameters"
    return schemas, places


def _shown(choice: ToolChoice | None) -> object:
    return msgspec.to_builtins(choice)


def _error(name: str, value: object, limit: str, fix: str = "") -> BodyError:
    return BodyError(name=name, value=value, limit=limit, fix=fix, param=name)
