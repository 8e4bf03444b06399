"""A small server that speaks the API the pages ask for, with answers, refusals and a pool that a test writes for it."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web
from jaxpaged_server.api.status import StatusReply
from jaxpaged_server.routes.pages import add_pages
from page_status import idle


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of a scripted answer. rivals: text -> probability, the token itself among them or not."""

    text: str
    probability: float = 0.98
    rivals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What the next request to the API gets instead of an answer."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after: str | None = None


def words(text: str) -> list[Token]:
    """A text as one token a word, all of them likely."""
    pieces = text.split(" ")
    return [Token(text=piece if at == 0 else f" {piece}") for at, piece in enumerate(pieces)]


@dataclass(slots=True, kw_only=True)
class Stub:
    """State of the server; a test sets it before it asks."""

    url: str = ""
    key: str | None = None
    answer: list[Token] = field(default_factory=lambda: words("A block holds sixteen tokens."))
    pace_s: float = 0.0  # between tokens
    cut: int = 0  # bytes per write of a stream; 0: an event per write
    finish: str = "stop"
    end_early: bool = False
    break_with: Refusal | None = None  # an error event after the answer
    refusals: list[Refusal] = field(default_factory=list)
    start: list[dict[str, Any]] = field(default_factory=list)  # what /health/ready says before it is
    status: StatusReply = field(default_factory=idle)
    openapi: dict[str, Any] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    polls: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)  # a stream whose reader went away
    _open: frozenset[str] = frozenset()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        self._open = add_pages(app)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/status.json", self._status)
        app.router.add_get("/openapi.json", self._openapi)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        open_to_all = request.path in self._open or request.path.startswith("/health/")
        if self.key and not open_to_all and request.headers.get("Authorization") != f"Bearer {self.key}":
            return refuse(Refusal(status=401, message="no or a wrong API key", code="invalid_api_key"))
        return await handler(request)

    async def _ready(self, request: web.Request) -> web.Response:
        if self.start:
            return web.json_response({"status": "unavailable", **self.start.pop(0)}, status=503)
        return web.json_response({"status": "ok", "phase": "ready"})

    async def _models(self, request: web.Request) -> web.Response:
        card = {"id": "tiny-stories", "object": "model", "created": 0, "owned_by": "jaxpaged", "max_model_len": 2048}
        return web.json_response({"object": "list", "data": [card]})

    async def _status(self, request: web.Request) -> web.Response:
        self.polls += 1
        reply = msgspec.structs.replace(self.status, at=time.time())
        return web.Response(body=msgspec.json.encode(reply), content_type="application/json")

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response(self.openapi)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.refusals:
            return refuse(self.refusals.pop(0))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        try:
            for data in self._events(body, chat):
                piece = self.cut or len(data)
                for at in range(0, len(data), piece):
                    await response.write(data[at : at + piece])
                    if self.cut:
                        await asyncio.sleep(0)
                await asyncio.sleep(self.pace_s)
        except (ConnectionError, asyncio.CancelledError):
            self.cancelled.set()
            raise
        return response

    def _events(self, body: dict[str, Any], chat: bool) -> Iterator[bytes]:
        yield b": keep-alive\r\n\r\n"
        if chat:
            yield event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for done, token in enumerate(self.answer, start=1):
            piece: dict[str, Any] = {"delta": {"content": token.text}} if chat else {"text": token.text}
            if body.get("logprobs"):
                piece["logprobs"] = chat_logprobs(token) if chat else completion_logprobs(token)
            yield event({"choices": [{"index": 0, **piece, "finish_reason": None}], "usage": usage(done)})
        if self.break_with:
            yield event({"error": error_fields(self.break_with)})
            return
        if self.end_early:
            return
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        yield event({"choices": [{"index": 0, **last, "finish_reason": self.finish}]})
        yield event({"choices": [], "usage": usage(len(self.answer))})
        yield b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def usage(tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 17,
        "completion_tokens": tokens,
        "total_tokens": 17 + tokens,
        "prompt_tokens_details": {"cached_tokens": 16},
    }


def chat_logprobs(token: Token) -> dict[str, Any]:
    top = [{"token": text, "logprob": math.log(share), "bytes": None} for text, share in token.rivals.items()]
    own = {"token": token.text, "logprob": math.log(token.probability), "bytes": None, "top_logprobs": top}
    return {"content": [own]}


def completion_logprobs(token: Token) -> dict[str, Any]:
    return {
        "tokens": [token.text],
        "token_logprobs": [math.log(token.probability)],
        "top_logprobs": [{text: math.log(share) for text, share in token.rivals.items()}],
        "text_offset": [0],
    }


def error_fields(refusal: Refusal) -> dict[str, Any]:
    return {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.code}


def refuse(refusal: Refusal) -> web.Response:
    headers = {"Retry-After": refusal.retry_after} if refusal.retry_after else {}
    return web.json_response({"error": error_fields(refusal)}, status=refusal.status, headers=headers)


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """Serve the stub from a thread of its own, on a free port of this machine."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="page stub")
    thread.start()

    async def begin() -> web.AppRunner:
        runner = web.AppRunner(stub.app(), handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    try:
        yield stub
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
