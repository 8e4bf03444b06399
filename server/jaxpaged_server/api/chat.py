"""/v1/chat/completions: the request, the reply, the events of a stream."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from jaxpaged_server.api.common import ABSENT, Absent, PromptLogprobs, SamplingFields, Usage
from jaxpaged_server.api.completions import REFUSED_BY_ALL
from jaxpaged_server.api.parse import Neutral, never
from jaxpaged_server.api.tools import ToolCall, ToolCallDelta, ToolChoice, Tools

MAX_MESSAGES = 1024
MAX_TEMPLATE_VARIABLES = 16
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TextPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a message's content; text is all there is."""

    type: Literal["text"]
    text: str


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One message of the conversation. tool_calls, tool_call_id and reasoning go to the chat template, the arguments of
    a call as an object; of reasoning, either name does, and templates see both. The last three say nothing: libraries
    write them as null when they send an answer back.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Annotated[str, Meta(max_length=256)] | None = None
    tool_calls: Annotated[list[dict[str, Any]], Meta(max_length=128)] | None = None
    tool_call_id: Annotated[str, Meta(max_length=256)] | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[dict[str, Any]], Meta(max_length=0)] | None = None


class ChatRequest(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """A conversation to go on with. max_completion_tokens is OpenAI's newer name of max_tokens."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[str, Meta(max_length=65_536)] | None = None
    chat_template_kwargs: (
        Annotated[dict[str, bool | int | float | str | None], Meta(max_length=MAX_TEMPLATE_VARIABLES)] | None
    ) = None
    echo: bool | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False: an answer holds at most one call."""
    include_reasoning: bool | None = None
    """False: what the model thought is not told."""
    reasoning_effort: ReasoningEffort | None = None
    """A variable of the chat template, as vLLM has it; with none, enable_thinking is false as well."""


_FUNCTIONS = "this older form is not served: use tools, and tool_choice"
REFUSED: dict[str, tuple[str, Neutral]] = {
    **REFUSED_BY_ALL,
    "functions": (_FUNCTIONS, lambda value: value == []),
    "function_call": (_FUNCTIONS, lambda value: value == "none"),
    "modalities": ("only text is served", lambda value: value == ["text"]),
    "audio": ("only text is served", never),
    "prediction": ("predicted outputs are not served", never),
    "web_search_options": ("this server makes no connection of its own", never),
    "verbosity": ("no model here has it", never),
    "documents": ("documents are not served; put them into a message", lambda value: value == []),
    "mm_processor_kwargs": ("only text is served", lambda value: value == {}),
}
"""As in `completions.REFUSED`."""


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token that could have stood here. bytes: of its text in UTF-8."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token of the answer, and what else could have stood there."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """One entry per token of the answer, or of the event."""

    content: list[TokenLogprob]


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says. reasoning: what it thought before, under the name that vLLM has for it now, and the one that
    it had before; content is null where there are only calls, or thoughts."""

    content: str | None
    role: str = "assistant"
    refusal: None = None
    reasoning: str | Absent = ABSENT
    reasoning_content: str | Absent = ABSENT
    tool_calls: list[ToolCall] | Absent = ABSENT


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. stop_reason: the stop string or token id that ended it, null for the model's own end."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    token_ids: list[int] | Absent = ABSENT


class ChatReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answers to a conversation."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    object: str = "chat.completion"
    prompt_logprobs: PromptLogprobs | Absent = ABSENT
    prompt_token_ids: list[int] | Absent = ABSENT


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of a message; the role comes with the first event."""

    role: str | Absent = ABSENT
    content: str | Absent = ABSENT
    reasoning: str | Absent = ABSENT
    reasoning_content: str | Absent = ABSENT
    tool_calls: list[ToolCallDelta] | Absent = ABSENT


class ChatEventChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None | Absent = ABSENT
    token_ids: list[int] | Absent = ABSENT


class ChatEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What is new, in a stream. prompt_token_ids: in the first one, where token ids were asked for."""

    id: str
    created: int
    model: str
    choices: list[ChatEventChoice]
    system_fingerprint: str
    usage: Usage | None | Absent = ABSENT
    object: str = "chat.completion.chunk"
    prompt_token_ids: list[int] | Absent = ABSENT
