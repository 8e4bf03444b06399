"""Requests to measure with: read from a file, or made of random tokens. [no jax]"""

from __future__ import annotations

import json
import math
import operator
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TypeVar

from jaxpaged.errors import ConfigError

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """A prompt, how many tokens to answer, and when it arrives (seconds from the start)."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    arrival_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long prompts or answers are. sigma 0: all `mean`; else log-normal about that mean, `most` at most."""

    mean: int
    sigma: float = 0.0
    most: int | None = None

    def draw(self, count: int, order: random.Random) -> list[int]:
        """One length from each `count`-th of the distribution, so that few requests have its mean, in random order."""
        if not self.sigma:
            return [self.mean] * count
        normal = NormalDist(math.log(self.mean) - self.sigma**2 / 2, self.sigma)
        drawn = [round(math.exp(normal.inv_cdf((i + 0.5) / count))) for i in range(count)]
        lengths = [max(1, length if self.most is None else min(self.most, length)) for length in drawn]
        order.shuffle(lengths)
        return lengths


def read_trace(path: Path, *, limit: int | None = None, option: str = "--input") -> list[TraceRequest]:
    """Read a trace in order of arrival. Raises ConfigError for a line that cannot be. option: what named the file."""
    trace: list[TraceRequest] = []
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and (limit is None or len(trace) < limit):
                    trace.append(_request(line, f"{path}, line {number}"))
    except OSError as error:
        raise ConfigError(name=option, value=str(path), limit=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            name=option,
            value=str(path),
            limit=f"after line {number} it is not UTF-8 ({error.reason})",
            fix="Save it as UTF-8",
        ) from None
    if not trace:
        raise ConfigError(name=option, value=str(path), limit="it holds no request")
    return sorted(trace, key=lambda request: request.arrival_s)


def write_trace(path: Path, trace: Sequence[TraceRequest]) -> None:
    """Write a trace that `read_trace` reads; arrivals in tenths of a millisecond. Raises OSError."""
    lines = [
        json.dumps(
            {
                "id": index,
                "arrival_s": round(request.arrival_s, 4),
                "max_tokens": request.max_tokens,
                "prompt_ids": request.prompt_ids,
            }
        )
        for index, request in enumerate(trace)
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def random_trace(
    *, num_requests: int, inputs: Lengths, outputs: Lengths, rate: float, vocab: int, seed: int
) -> list[TraceRequest]:
    """Requests of random tokens; the same arguments give the same trace. rate: requests a second, 0 for all at once."""
    tokens, clock = random.Random(f"{seed}:tokens"), random.Random(f"{seed}:arrivals")
    order = random.Random(f"{seed}:lengths")
    trace: list[TraceRequest] = []
    arrival_s = 0.0
    for num_input, num_output in zip(inputs.draw(num_requests, order), outputs.draw(num_requests, order), strict=True):
        arrival_s += clock.expovariate(rate) if rate > 0 else 0.0
        prompt = tuple(tokens.randrange(vocab) for _ in range(num_input))
        trace.append(TraceRequest(prompt_ids=prompt, max_tokens=num_output, arrival_s=arrival_s))
    return trace


def _request(line: str, where: str) -> TraceRequest:
    try:
        row = json.loads(line)
        prompt, max_tokens, arrival_s = row["prompt_ids"], row["max_tokens"], row.get("arrival_s") or 0.0
        if not isinstance(prompt, list):
            raise TypeError("prompt_ids is no list")
        return TraceRequest(
            prompt_ids=tuple(operator.index(token) for token in prompt),
            max_tokens=_at_least(1, "max_tokens", operator.index(max_tokens)),
            arrival_s=_at_least(0.0, "arrival_s", float(arrival_s)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            name=where,
            value=line[:60].strip(),
            limit=f'it must be a JSON object with "prompt_ids" and "max_tokens" ({error!r})',
        ) from None


def _at_least(least: Number, name: str, value: Number) -> Number:
    if not least <= value < math.inf:
        raise ValueError(f"{name} is {value}: it must be a number of at least {least}")
    return value
