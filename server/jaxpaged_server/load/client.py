"""Sends one request, reads its stream, and notes when what came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import aiohttp
import msgspec

from jaxpaged_server.load.endpoint import Endpoint
from jaxpaged_server.load.events import DONE, Chunk, EventReader, Usage
from jaxpaged_server.load.outcome import End, Outcome

_OK, _TOO_MANY = 200, 429
_FAULTS = (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError)


def open_session(endpoint: Endpoint, *, timeout_s: float, verify: bool = True) -> aiohttp.ClientSession:
    """A session without a limit of connections: requests never wait for one. timeout_s: for a whole answer.

    verify: whether the certificate of an https endpoint must be good.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=60, ssl=verify),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        headers={"Content-Type": "application/json", **endpoint.headers},
        trust_env=True,
        read_bufsize=2**20,
    )


class Client:
    """Sends requests to an endpoint. `clock` counts seconds from anywhere; `began_s` is its reading at the start."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: Endpoint,
        *,
        began_s: float,
        keep_text: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._began_s = began_s
        self._keep_text = keep_text
        self._clock = clock
        self._decode = msgspec.json.Decoder(Chunk).decode

    def now_s(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began_s

    async def send(self, body: bytes, outcome: Outcome, headers: Mapping[str, str] | None = None) -> None:
        """Send a request and fill in its outcome; never raises but for a cancellation."""
        outcome.began_s = self.now_s()
        try:
            async with self._session.post(self._endpoint.url, data=body, headers=headers) as reply:
                if reply.status == _OK:
                    await self._read(reply, outcome)
                else:
                    await self._refused(reply, outcome)
        except _FAULTS as error:
            outcome.fail(_kind(error), _told(error), self.now_s())

    async def _read(self, reply: aiohttp.ClientResponse, outcome: Outcome) -> None:
        events, over = EventReader(), False
        async for data in reply.content.iter_any():
            now_s = self.now_s()
            for event in events.feed(data):
                over |= self._take(event, outcome, now_s)
                if outcome.end is End.FAILED:
                    return
        if rest := events.rest:  # an end without its empty line; anything else is half an event
            over |= rest == DONE
        if not outcome.times_s:
            what = "no event" if reply.content_type == "text/event-stream" else f"{reply.content_type}, no event stream"
            outcome.fail("no token", f"the answer held no token ({what})", self.now_s())
        elif not over:
            outcome.fail("cut off", "the stream stopped before the end of the answer", self.now_s())
        else:
            outcome.end = End.DONE

    def _take(self, event: bytes, outcome: Outcome, now_s: float) -> bool:
        """Take in an event; whether it says that the answer is over."""
        if event == DONE:
            return True
        chunk = self._decode(event)
        if chunk.error:
            outcome.fail("error event", _message(chunk.error), now_s)
            return False
        return self._note(chunk, outcome, now_s)

    def _note(self, chunk: Chunk, outcome: Outcome, now_s: float) -> bool:
        usage, over = chunk.usage, False
        if chunk.choices:
            outcome.ended_s = now_s
            over = any(choice.finish_reason for choice in chunk.choices)
            num_tokens = sum(choice.num_tokens for choice in chunk.choices)
            if usage is not None and usage.completion_tokens is not None:  # counted by the server, event by event
                num_tokens = usage.completion_tokens - outcome.num_output
            if num_tokens > 0:
                outcome.add(num_tokens, now_s)
            outcome.has_bare_end = over and num_tokens <= 0
            if self._keep_text:
                outcome.text += [choice.new_text for choice in chunk.choices]
        if usage is not None:
            _settle(outcome, usage)
        return over

    async def _refused(self, reply: aiohttp.ClientResponse, outcome: Outcome) -> None:
        """A status other than 200: 429 is a refusal, anything else a failure."""
        message = _message(await reply.read()) or reply.reason or ""
        outcome.retry_after_s = _seconds(reply.headers.get("Retry-After"))
        end = End.REFUSED if reply.status == _TOO_MANY else End.FAILED
        outcome.fail(f"HTTP {reply.status}", message, self.now_s(), end=end)


def _settle(outcome: Outcome, usage: Usage) -> None:
    """Take over the server's counts."""
    if outcome.has_bare_end and usage.completion_tokens == outcome.num_output + 1:
        outcome.add(1, outcome.ended_s)  # the end was the last token's event: one without a text of its own
    outcome.num_prompt = usage.prompt_tokens or outcome.num_prompt
    outcome.num_output = usage.completion_tokens or outcome.num_output
    if usage.prompt_tokens_details is not None:
        outcome.num_cached = usage.prompt_tokens_details.cached_tokens or 0


def _message(error: object) -> str:
    """The message within OpenAI's error shape, or what there is, in one line."""
    if isinstance(error, bytes):
        try:
            error = msgspec.json.decode(error)
        except ValueError:
            error = error.decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        if isinstance(error, dict) and error.get(key):
            error = error[key]
    return " ".join(str(error).split())[:300]


def _seconds(retry_after: str | None) -> float | None:
    try:
        return None if retry_after is None else float(retry_after)
    except ValueError:  # a date: nobody serves it, nothing here needs it
        return None


def _kind(error: BaseException) -> str:
    match error:
        case asyncio.TimeoutError():
            return "timeout"
        case aiohttp.ClientConnectorError():
            return "no connection"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | ConnectionError():
            return "cut off"
        case ValueError():
            return "not understood"
        case _:
            return type(error).__name__


def _told(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):  # whose own words speak of a status 400 that nobody sent
        return "the connection was closed amid the answer"
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].removesuffix(": ")
