"""An OpenAI endpoint with known delays and known faults, in a thread of its own: what load generators are tested on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

CUT, ERROR_EVENT, SILENT = -1, -2, -3
"""In place of a status: end the connection amid the answer, an error within the stream, an answer without tokens."""


@dataclass(kw_only=True)
class StubServer:
    """Use as `with`. Answers of `max_tokens` tokens, the first after ttft_s, events of `per_event` tokens each itl_s.

    status_of: the status (or a fault above) of the n-th request, from 0. slots: with so many under way, 429 at once.
    """

    ttft_s: float = 0.0
    itl_s: float = 0.0
    per_event: int = 1
    model: str = "stub"
    owned_by: str = "stub"
    slots: int | None = None
    status_of: Callable[[int], int] = lambda number: 200
    not_ready: int = 0
    """So many times /v1/models says 503."""
    key: str | None = None
    tokenizer_info: dict[str, Any] | None = None
    tokens_a_word: int = 0
    """Of /tokenize; 0: there is no such route."""
    cached: int = 0
    last_text: str = "x"
    """Of the last token: vLLM sends tokens without a text of their own as empty events."""
    has_read: Callable[[str, int], bool] = lambda request_id, told: True
    """Whether the client has read so many tokens of a request: the time to the next ones begins then."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0

    def __enter__(self) -> StubServer:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.get("/tokenizer_info", self._tokenizer_info),
                web.post("/tokenize", self._tokenize),
                web.post("/v1/completions", self._complete),
                web.post("/v1/chat/completions", self._complete),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.port: int = server.sockets[0].getsockname()[1]
        started.set()
        await self._over.wait()
        await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "wrong key")
        if self.not_ready:
            self.not_ready -= 1
            return _error(503, "loading")
        return web.json_response({"object": "list", "data": [{"id": self.model, "owned_by": self.owned_by}]})

    async def _tokenizer_info(self, request: web.Request) -> web.Response:
        return _error(404, "none") if self.tokenizer_info is None else web.json_response(self.tokenizer_info)

    async def _tokenize(self, request: web.Request) -> web.Response:
        if not self.tokens_a_word:
            return _error(404, "none")
        count = self.tokens_a_word * len((await request.json())["prompt"].split())
        return web.json_response({"count": count, "tokens": [0] * count})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.bodies)  # after the wait: no two have the same
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.slots is not None and self.busy >= self.slots:
            return _error(429, "too many requests", {"Retry-After": "2"})
        if (status := self.status_of(number)) >= 400:
            return _error(status, f"status {status} for request {number}", {"Retry-After": "3"})
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            return await self._stream(request, body, status)
        finally:
            self.busy -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any], status: int) -> web.StreamResponse:
        chat = "messages" in body
        options = body.get("stream_options") or {}
        length = body["max_completion_tokens"] if chat else body["max_tokens"]
        num_prompt = _num_prompt(body)
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        if chat:
            await _send(reply, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(self.ttft_s)
        told = 0
        while told < length and status != SILENT:
            if told:
                while not self.has_read(request.headers.get("X-Request-Id", ""), told):
                    await asyncio.sleep(0.001)
                await asyncio.sleep(self.itl_s)
            count = min(self.per_event, length - told)
            told += count
            text, reason = ("x" * count, None) if told < length else (self.last_text * count, "length")
            said = {"delta": {"content": text}} if chat else {"text": text}
            usage = self._usage(num_prompt, told) if options.get("continuous_usage_stats") else None
            await _send(reply, {"choices": [{"index": 0, **said, "finish_reason": reason}], "usage": usage})
            if status == CUT and request.transport is not None:
                request.transport.abort()
                return reply
            if status == ERROR_EVENT:
                await _send(reply, {"error": {"message": "the engine broke", "type": "server_error"}})
                return reply
        if options.get("include_usage"):
            await _send(reply, {"choices": [], "usage": self._usage(num_prompt, told)})
        await reply.write(b": a comment\n\ndata: [DONE]\n\n")
        return reply

    def _usage(self, num_prompt: int, told: int) -> dict[str, Any]:
        details = {"cached_tokens": self.cached}
        return {"prompt_tokens": num_prompt, "completion_tokens": told, "prompt_tokens_details": details}


def _num_prompt(body: dict[str, Any]) -> int:
    prompt = body["messages"][0]["content"] if "messages" in body else body["prompt"]
    return len(prompt.split()) if isinstance(prompt, str) else len(prompt)


async def _send(reply: web.StreamResponse, event: dict[str, Any]) -> None:
    await reply.write(b"data: " + json.dumps(event).encode() + b"\n\n")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)
