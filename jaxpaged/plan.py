"""What one step computes, as the scheduler decided it. [host half: no jax]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxpaged.buckets import Bucket
from jaxpaged.request import Request


class RowPlan(NamedTuple):
    """One row of a step: computes tokens[start : start + length] of a request; samples: and then draws the next one.

    A row of length 0 computes nothing: its request follows another one, which is in the same step with its prompt's
    last token, and draws its first token where that one does.
    draft: of a drafted row the guesses that stand behind the request's tokens, up to this row's own token, the last.
    """

    request: Request
    start: int
    length: int
    samples: bool
    draft: tuple[int, ...] = ()

    @classmethod
    def of(cls, request: Request, count: int) -> RowPlan:
        """The row of a request's next `count` tokens."""
        start, total = request.num_computed, len(request.tokens)
        assert 0 < count <= total - start, f"{count} tokens from {start} on, of {total}"
        return cls(request, start, count, start + count == total)

    @classmethod
    def following(cls, request: Request) -> RowPlan:
        """The row of a follower, in the step in which its leader draws its first token."""
        return cls(request, len(request.prompt), 0, True)

    @classmethod
    def drafted(cls, first: RowPlan, draft: tuple[int, ...]) -> RowPlan:
        """The row of the last of some guesses. first: the row of the request's last token, which they follow."""
        assert first.samples
        assert first.length == 1
        assert draft
        return cls(first.request, first.start + len(draft), 1, True, draft)

    @property
    def tokens(self) -> list[int]:
        """All tokens of the request, as this row has them."""
        return [*self.request.tokens, *self.draft] if self.draft else self.request.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What one step computes. Rows with one token come first, drafted ones behind the row that they follow, in their
    order; rows with none come last.

    copies: (source, destination) of blocks to be copied before it, in this order; no source is a destination before it.
    """

    rows: tuple[RowPlan, ...]
    bucket: Bucket
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens computed for requests; the bucket's others are padding."""
        return sum(row.length for row in self.rows)

    @property
    def num_drafted(self) -> int:
        """Rows that hold guesses."""
        return sum(bool(row.draft) for row in self.rows)
