"""Functions that a model may call: as requests offer them, and as answers call them. Forms are OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from jaxpaged_server.api.common import ABSENT, Absent

MAX_TOOLS = 128
FunctionName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.-]+$(?!\n)")]


class Function(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function. parameters: the JSON schema of its arguments, an object's. strict: whether what the model chooses to
    call is held to the schema; where a call is required it always is."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that a model may use; functions are all there is."""

    type: Literal["function"]
    function: Function


class ChosenFunction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The name of one of the tools."""

    name: FunctionName


class ChosenTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tool that is to be called."""

    type: Literal["function"]
    function: ChosenFunction


Tools = Annotated[list[Tool], Meta(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | ChosenTool


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """arguments: JSON text, as the model wrote it: it need not be valid where no grammar held the model to it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call in an answer."""

    id: str
    function: FunctionCall
    type: str = "function"


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of a call's function; the name comes first, and whole."""

    name: str | Absent = ABSENT
    arguments: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of the call at this place of the answer's calls; id and type come with the first event."""

    index: int
    id: str | Absent = ABSENT
    type: str | Absent = ABSENT
    function: FunctionDelta
