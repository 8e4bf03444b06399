"""The line that tells, every few seconds, what the server does; silent while it does nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the line is made of. Totals count from the server's start; `at_s` is on a clock that does not go back."""

    at_s: float
    prompt_tokens: int
    cached_tokens: int  # of the prompts, served by the prefix cache
    generation_tokens: int
    step_tokens: int
    padded_tokens: int
    preemptions: int
    compiles: int  # since the engine was ready
    restarts: int
    running: int
    waiting: int
    kv_usage: float  # 0 to 1


def status_line(before: Snapshot, now: Snapshot) -> str | None:
    """What happened between two snapshots; None where nothing did and nothing is left to do."""
    seconds = now.at_s - before.at_s
    prompt = now.prompt_tokens - before.prompt_tokens
    cached = now.cached_tokens - before.cached_tokens
    generated = now.generation_tokens - before.generation_tokens
    if seconds <= 0 or not (prompt or generated or now.running or now.waiting):
        return None
    padded = now.padded_tokens - before.padded_tokens
    computed = padded + now.step_tokens - before.step_tokens
    parts = [
        f"Avg prompt throughput: {(prompt - cached) / seconds:.1f} tokens/s",
        f"Avg generation throughput: {generated / seconds:.1f} tokens/s",
        f"Running: {now.running} reqs",
        f"Waiting: {now.waiting} reqs",
        f"KV cache usage: {now.kv_usage:.1%}",
    ]
    if prompt:
        parts.append(f"Prefix cache hit rate: {cached / prompt:.1%}")
    if computed:
        parts.append(f"Padding: {padded / computed:.1%}")
    if preemptions := now.preemptions - before.preemptions:
        parts.append(f"Preemptions: {preemptions}")
    parts.append(f"Compiles: {now.compiles}")
    if now.restarts:
        parts.append(f"Engine restarts: {now.restarts}")
    return ", ".join(parts)


async def report(
    snapshot: Callable[[], Snapshot],
    log: logging.Logger,
    *,
    interval_s: float = 10.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Log the line every `interval_s` seconds until cancelled."""
    before = snapshot()
    while True:
        await sleep(interval_s)
        now = snapshot()
        if (line := status_line(before, now)) is not None:
            log.info("%s", line)
        before = now
