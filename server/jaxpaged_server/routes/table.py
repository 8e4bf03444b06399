"""Every public route, once: the application is built from it, and so is openapi.json."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from jaxpaged_server.api.chat import ChatEvent, ChatReply, ChatRequest
from jaxpaged_server.api.completions import CompletionEvent, CompletionReply, CompletionRequest
from jaxpaged_server.api.status import StatusReply
from jaxpaged_server.api.tokens import (
    DetokenizeReply,
    DetokenizeRequest,
    HealthReply,
    LoadReply,
    ModelCard,
    ModelList,
    ServerInfoReply,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfoReply,
    VersionReply,
)
from jaxpaged_server.routes import chat, completions, health, info, status, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. body, reply, event: structs, event of a stream; statuses: what it may answer beside 200."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    tag: str
    body: type[Any] | None = None
    reply: type[Any] | None = None
    event: type[Any] | None = None
    statuses: tuple[int, ...] = ()
    content_type: str = "application/json"


_BODY = (400, 413, 415)
_WORK = (*_BODY, 404, 429, 503, 504)

ROUTES = (
    Route(
        method="POST",
        path="/v1/completions",
        handler=completions.create_completion,
        summary="Complete one prompt or several",
        tag="Generate",
        body=CompletionRequest,
        reply=CompletionReply,
        event=CompletionEvent,
        statuses=_WORK,
    ),
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=chat.create_chat_completion,
        summary="Answer a conversation",
        tag="Generate",
        body=ChatRequest,
        reply=ChatReply,
        event=ChatEvent,
        statuses=_WORK,
    ),
    Route(
        method="GET",
        path="/v1/models",
        handler=info.list_models,
        summary="The names under which the model is served",
        tag="Models",
        reply=ModelList,
    ),
    Route(
        method="GET",
        path="/v1/models/{model:.+}",
        handler=info.get_model,
        summary="One of these names",
        tag="Models",
        reply=ModelCard,
        statuses=(404,),
    ),
    Route(
        method="POST",
        path="/tokenize",
        handler=tokens.tokenize,
        summary="Token ids of a prompt or a conversation",
        tag="Tokens",
        body=TokenizeRequest,
        reply=TokenizeReply,
        statuses=(*_BODY, 404, 503),
    ),
    Route(
        method="POST",
        path="/detokenize",
        handler=tokens.detokenize,
        summary="The text of token ids",
        tag="Tokens",
        body=DetokenizeRequest,
        reply=DetokenizeReply,
        statuses=(*_BODY, 404, 503),
    ),
    Route(
        method="GET",
        path="/tokenizer_info",
        handler=tokens.tokenizer_info,
        summary="What a client needs to count tokens by itself",
        tag="Tokens",
        reply=TokenizerInfoReply,
        statuses=(503,),
    ),
    Route(
        method="GET",
        path="/health/live",
        handler=health.live,
        summary="Whether the process answers",
        tag="Health",
        reply=HealthReply,
    ),
    Route(
        method="GET",
        path="/health/ready",
        handler=health.ready,
        summary="Whether it may be sent requests, and how far its start is",
        tag="Health",
        reply=HealthReply,
        statuses=(503,),
    ),
    Route(
        method="GET",
        path="/health",
        handler=health.ready,
        summary="As /health/ready",
        tag="Health",
        reply=HealthReply,
        statuses=(503,),
    ),
    Route(method="GET", path="/ping", handler=health.ping, summary="200 or 503", tag="Health", statuses=(503,)),
    Route(method="GET", path="/version", handler=info.version, summary="The version", tag="Server", reply=VersionReply),
    Route(
        method="GET",
        path="/load",
        handler=info.load,
        summary="Requests in the server now",
        tag="Server",
        reply=LoadReply,
    ),
    Route(
        method="GET",
        path="/server_info",
        handler=info.server_info,
        summary="What was chosen at the start",
        tag="Server",
        reply=ServerInfoReply,
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=info.metrics,
        summary="Figures for Prometheus",
        tag="Server",
        content_type="text/plain",
    ),
    Route(
        method="GET",
        path="/status.json",
        handler=status.status,
        summary="The block pool, requests, steps and latencies now",
        tag="Server",
        reply=StatusReply,
    ),
)
