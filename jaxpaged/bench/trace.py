"""Requests to measure with: read from a file, or made of random tokens. [no jax]"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from jaxpaged.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """A prompt, how many tokens to answer, and when it arrives (seconds from the start)."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    arrival_s: float = 0.0


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRequest]:
    """Read a trace in order of arrival. Raises ConfigError naming the line that cannot be."""
    trace: list[TraceRequest] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and (limit is None or len(trace) < limit):
                    trace.append(_request(line, f"{path}, line {number}"))
    except OSError as error:
        raise ConfigError(name="--input", value=str(path), limit=error.strerror or str(error)) from error
    if not trace:
        raise ConfigError(name="--input", value=str(path), limit="it holds no request")
    return sorted(trace, key=lambda request: request.arrival_s)


def random_trace(
    *, num_requests: int, input_len: int, output_len: int, rate: float, vocab: int, seed: int
) -> list[TraceRequest]:
    """Requests of equal lengths; the same arguments give the same trace. rate: requests a second, 0 for all at once."""
    tokens, clock = random.Random(f"{seed}:tokens"), random.Random(f"{seed}:arrivals")
    trace: list[TraceRequest] = []
    arrival_s = 0.0
    for _ in range(num_requests):
        arrival_s += clock.expovariate(rate) if rate > 0 else 0.0
        prompt = tuple(tokens.randrange(vocab) for _ in range(input_len))
        trace.append(TraceRequest(prompt_ids=prompt, max_tokens=output_len, arrival_s=arrival_s))
    return trace


def _request(line: str, where: str) -> TraceRequest:
    try:
        row = json.loads(line)
        return TraceRequest(
            prompt_ids=tuple(int(token) for token in row["prompt_ids"]),
            max_tokens=int(row["max_tokens"]),
            arrival_s=float(row.get("arrival_s") or 0.0),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            name=where,
            value=line[:60].strip(),
            limit=f'it must be a JSON object with "prompt_ids" and "max_tokens" ({error!r})',
        ) from None
