"""/v1/completions: the request, the reply, the events of a stream."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from jaxpaged_server.api.common import (
    ABSENT,
    Absent,
    PromptLogprobs,
    SamplingFields,
    TokenId,
    Usage,
)
from jaxpaged_server.api.parse import Neutral, never

PromptItem = str | TokenId | list[TokenId]


class CompletionRequest(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """prompt: a text, texts, token ids, or lists of token ids. logprobs: alternatives per token,
    of an echo too; -1: the whole vocabulary, where the server allows it."""

    prompt: str | list[PromptItem]
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None


_RENAMED = "vLLM has it no more; ask for structured_outputs: {%s}"
REFUSED_BY_ALL: dict[str, tuple[str, Neutral]] = {
    "guided_json": (_RENAMED % '"json": ...', never),
    "guided_regex": (_RENAMED % '"regex": ...', never),
    "guided_choice": (_RENAMED % '"choice": ...', never),
    "guided_grammar": (_RENAMED % '"grammar": ...', never),
    "guided_json_object": (_RENAMED % '"json_object": true', lambda value: value is False),
    "guided_whitespace_pattern": (_RENAMED % '"whitespace_pattern": ...', never),
    "guided_decoding_backend": ("there is one, which is not chosen by requests; leave it out", never),
    "structural_tag": (_RENAMED % '"structural_tag": ...', never),
    "logits_processors": (
        "requests may not bring code; use structured_outputs, allowed_token_ids, bad_words or logit_bias",
        lambda value: value == [],
    ),
    "kv_transfer_params": ("KV is not handed between servers", never),
    "vllm_xargs": ("it belongs to plugins of another server", lambda value: value == {}),
    "prompt_embeds": ("requests may not bring tensors", never),
}
"""Fields of other servers that change the answer and are not served: why, and which values ask for nothing."""
REFUSED: dict[str, tuple[str, Neutral]] = {
    **REFUSED_BY_ALL,
    "suffix": ("no model here fills in the middle; put what comes after into the prompt", lambda value: value == ""),
}


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Parallel lists, one entry per token. text_offset: characters from the start of the choice's text."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. stop_reason: the stop string or token id that ended it, null for the model's own end of text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: PromptLogprobs | Absent = ABSENT
    token_ids: list[int] | Absent = ABSENT
    prompt_token_ids: list[int] | Absent = ABSENT


class CompletionReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answers to all prompts: choice i x n + j is the j-th answer to prompt i."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
    object: str = "text_completion"


class CompletionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What is new, in a stream. usage: where it was asked for."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: Usage | None | Absent = ABSENT
    object: str = "text_completion"


__all__ = [
    "REFUSED",
    "REFUSED_BY_ALL",
    "CompletionChoice",
    "CompletionEvent",
    "CompletionLogprobs",
    "CompletionReply",
    "CompletionRequest",
]
