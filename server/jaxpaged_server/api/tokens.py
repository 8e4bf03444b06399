"""/tokenize, /detokenize, /tokenizer_info: text and token ids, without a model's step. Forms are vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from jaxpaged_server.api.chat import MAX_MESSAGES, MAX_TEMPLATE_VARIABLES, ChatMessage
from jaxpaged_server.api.common import TokenId
from jaxpaged_server.api.tools import Tools


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A prompt, or messages for the chat template; one of the two."""

    model: Annotated[str, Meta(max_length=512)] | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: (
        Annotated[dict[str, bool | int | float | str | None], Meta(max_length=MAX_TEMPLATE_VARIABLES)] | None
    ) = None
    tools: Tools | None = None


class TokenizeReply(msgspec.Struct, frozen=True, kw_only=True):
    """count: of the tokens. max_model_len: the longest context, prompt and answer together."""

    count: int
    max_model_len: int
    tokens: Sequence[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Token ids, each below the model's vocabulary."""

    tokens: Annotated[list[TokenId], Meta(max_length=2**20)]
    model: Annotated[str, Meta(max_length=512)] | None = None


class DetokenizeReply(msgspec.Struct, frozen=True, kw_only=True):
    """The text, special tokens included."""

    prompt: str


class TokenizerInfoReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs to count tokens as the server does. special_tokens: by their role."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    eos_token_ids: list[int]
    special_tokens: dict[str, str]
    chat_template: str | None
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One name under which the model is served."""

    id: str
    created: int
    root: str
    max_model_len: int | None
    object: str = "model"
    owned_by: str = "jaxpaged"
    parent: str | None = None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    data: list[ModelCard]
    object: str = "list"


class VersionReply(msgspec.Struct, frozen=True, kw_only=True):
    version: str


class LoadReply(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in the server now, waiting ones included."""

    server_load: int


class HealthReply(msgspec.Struct, frozen=True, kw_only=True):
    """phase: starting, loading, compiling, ready, restarting, draining, failed. done of total; left_s: seconds, where
    they are known."""

    status: str
    phase: str
    done: int = 0
    total: int = 0
    left_s: float | None = None
    detail: str = ""


class ServerInfoReply(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's start-up table and the settings of the server, without secrets and paths."""

    version: str
    model: str
    engine: dict[str, Any]
    server: dict[str, Any]
