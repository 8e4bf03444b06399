"""What became of one request, as its client saw it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise


class End(Enum):
    """How a request ended. UNFINISHED: the run was interrupted first. REFUSED: status 429, not now."""

    UNFINISHED = "unfinished"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One request. Times are in seconds since the run began, by one monotonic clock.

    due_s: when it was to be sent; began_s: when it was (after waiting for a place, with a limit of concurrency);
    times_s, counts: the events that brought tokens, and how many each; ended_s: the last event of the answer.
    """

    index: int
    due_s: float
    began_s: float
    num_prompt: int = 0
    num_cached: int = 0
    num_output: int = 0
    times_s: array[float] = field(default_factory=lambda: array("d"))
    counts: array[int] = field(default_factory=lambda: array("L"))
    ended_s: float = 0.0
    has_bare_end: bool = False
    """The last event ended the answer and brought no text: whether a token, the server's count will tell."""
    end: End = End.UNFINISHED
    kind: str = ""
    """Of the error: "HTTP 500", "timeout", "cut off"."""
    error: str = ""
    retry_after_s: float | None = None
    text: list[str] = field(default_factory=list)

    def add(self, num_tokens: int, now_s: float) -> None:
        """Note an event with tokens."""
        self.times_s.append(now_s)
        self.counts.append(num_tokens)
        self.num_output += num_tokens

    def fail(self, kind: str, error: str, now_s: float, *, end: End = End.FAILED) -> None:
        """Note that it did not end well."""
        self.end, self.kind, self.error, self.ended_s = end, kind, error, now_s

    @property
    def is_done(self) -> bool:
        return self.end is End.DONE

    @property
    def queue_s(self) -> float:
        """How long it waited on this side."""
        return self.began_s - self.due_s

    @property
    def ttft_s(self) -> float:
        """From the sending to the first token; 0 where none came."""
        return self.times_s[0] - self.began_s if self.times_s else 0.0

    @property
    def latency_s(self) -> float:
        """From the sending to the end of the answer."""
        return self.ended_s - self.began_s

    @property
    def gaps_s(self) -> list[float]:
        """Times between two events with tokens."""
        return [after - before for before, after in pairwise(self.times_s)]

    @property
    def tpot_s(self) -> float | None:
        """Mean time of a token after the first; None for an answer of one."""
        return (self.latency_s - self.ttft_s) / (self.num_output - 1) if self.num_output > 1 else None

    @property
    def weights(self) -> list[float]:
        """Tokens of each event, scaled to what the server says the answer had: it may hold several in one event."""
        told = sum(self.counts)
        return [count * self.num_output / told for count in self.counts] if told else [0.0] * len(self.counts)
