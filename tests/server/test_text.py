"""Text work of a server leaves its event loop free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from jaxpaged_server.access.keys import ANONYMOUS
from jaxpaged_server.text import TextWorker

from jaxpaged.tiny import TINY_MODEL


async def share_held(work: Awaitable[object]) -> float:
    """The longest pause of the event loop while something is awaited, as a share of the time that it took."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    longest, began = 0.0, time.perf_counter()
    await work
    took = time.perf_counter() - began
    await asyncio.sleep(0.01)
    watcher.cancel()
    return longest / took


async def test_long_texts_and_many_ids_do_not_hold_up_the_event_loop() -> None:
    worker = TextWorker(str(TINY_MODEL), most_characters=10**7)
    try:
        text = "ab cd " * 100_000
        ids = await worker.encode(ANONYMOUS, text, add_special_tokens=False)
        assert list(ids[:20]) == worker.tokenizer.encode("ab cd " * 10, add_special_tokens=False)[:20]
        assert await share_held(worker.encode(ANONYMOUS, text, add_special_tokens=False)) < 0.5
        assert await worker.decode(ANONYMOUS, list(ids)) == text
        assert await share_held(worker.decode(ANONYMOUS, list(ids) * 3)) < 0.5
        assert (await worker.spellings(ANONYMOUS, list(ids)))[:2] == worker.tokenizer.token_strings(ids[:2])
        assert await share_held(worker.spellings(ANONYMOUS, list(ids) * 3)) < 0.5
    finally:
        await worker.close()
