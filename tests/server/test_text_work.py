"""Text on its way to token ids, over HTTP: bounded by its length, in turns between keys, and within its time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from jaxpaged_server.access.keys import Keys
from scripted_engine import INFO
from served import Served, served

from jaxpaged.tokenize import Tokenizer

FLOOD, OTHER = "sk-flood-0123456789", "sk-other-0123456789"
LONG = "ab " * 1000
ROUTES: tuple[tuple[str, Callable[[str], dict[str, Any]]], ...] = (
    ("/v1/completions", lambda text: {"prompt": text, "max_tokens": 1}),
    ("/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 1}),
    ("/tokenize", lambda text: {"prompt": text}),
    ("/tokenize", lambda text: {"messages": [{"role": "user", "content": text}]}),
)


async def ask(it: Served, path: str, body: Any, *, key: str = "", timeout_s: float | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if timeout_s is not None:
        headers["X-Request-Timeout"] = str(timeout_s)
    async with it.client.post(path, json=body, headers=headers) as response:
        return response.status, await response.json()


async def test_a_text_that_is_too_long_for_any_tokens_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was tokenised")

    async with served() as it:
        longest = it.services.text.tokenizer.longest_token
        assert longest is not None
        monkeypatch.setattr(Tokenizer, "encode", never)
        monkeypatch.setattr(it.services.text.renderer, "render", never)
        for path, body in ROUTES:
            status, reply = await ask(it, path, body("a" * (longest * INFO.max_model_len + 1)))
            assert (status, reply["error"]["code"]) == (400, "context_length_exceeded"), path
            assert "this model's maximum context length is 256 tokens" in reply["error"]["message"]
        status, reply = await ask(it, "/v1/completions", {"prompt": [1] * 100_000})
        assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_flood_of_long_texts_does_not_hold_up_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, at_work = Tokenizer.encode, list[int]()

    def slow(self: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[int]:
        at_work.append(threading.get_ident())
        time.sleep(0.05)
        return encode(self, text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", slow)
    async with served(keys=Keys(plain=[FLOOD, OTHER])) as it:
        flood = [asyncio.create_task(ask(it, "/tokenize", {"prompt": LONG}, key=FLOOD)) for _ in range(20)]
        while not at_work:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        for _ in range(3):
            assert (await ask(it, "/tokenize", {"prompt": LONG}, key=OTHER))[0] == 200
        took = time.monotonic() - began
        assert sum(task.done() for task in flood) < 20
        assert {status for status, _ in await asyncio.gather(*flood)} == {200}
    assert took < 0.45  # each its own 50 ms; behind the flood it was half a second for the first


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_the_time_of_a_request_holds_while_its_text_is_read(
    monkeypatch: pytest.MonkeyPatch, path: str, body: Callable[[str], dict[str, Any]]
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(Tokenizer, "encode", lambda *args, **kwargs: gate.wait(10) and [1])
    async with served() as it:
        gate.set()
        assert (await ask(it, path, body(LONG)))[0] == 200  # templates' children take a while to start
        gate.clear()
        try:
            began = time.monotonic()
            told = await asyncio.gather(*(ask(it, path, body(LONG), timeout_s=1.0) for _ in range(4)))
            assert time.monotonic() - began < 5
            assert {(status, reply["error"]["code"]) for status, reply in told} == {(504, "deadline_exceeded")}
            turns = it.services.text._beside._turns
            assert turns._free == 0, "the threads are at work still"
        finally:
            gate.set()
        async with asyncio.timeout(5):
            while turns._flows:
                await asyncio.sleep(0.005)
        assert turns._free == 2


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_no_body_is_waited_for_where_nobody_is_let_in(path: str) -> None:
    async def never_ends() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    headers = {"Content-Type": "application/json"}
    async with served() as it, asyncio.timeout(5):
        for close, word in (
            (lambda: it.services.admission.pause("paused by its operator"), "paused"),
            (it.services.admission.drain, "shutting down"),
            (it.engine.break_down, "restarting"),
        ):
            close()
            async with it.client.post(path, data=never_ends(), headers=headers) as response:
                assert response.status == 503
                assert word in (await response.json())["error"]["message"]
