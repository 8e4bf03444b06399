"""The masks of a step, made by several threads, and the requests that end for want of a next token.
[host half: no jax]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jaxpaged.answer_end import AnswerEnd
from jaxpaged.masks import fill_mask, is_bound, mask_words
from jaxpaged.panics import is_failure
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import FinishReason, Request

_ALONE = 4
"""Requests whose masks the caller makes itself: to wake other threads takes as long."""
_MAX_THREADS = 8
UNKEPT = "its constraints cannot be kept"
"""How the error of a request begins that asked for what could not be done, as a grammar of too much work."""
_SHOWN = 300
"""Characters that an error shows of what went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A request that ends because no token may come next."""

    request: Request
    reason: FinishReason
    error: str | None = None


_Bound = list[tuple[RowPlan, np.ndarray]]
"""The rows of one request, in the order of their tokens, each with its mask."""


class MaskFiller:
    """Makes masks. Not thread-safe, though it has threads: those of one request are made one after the other.

    vocab: tokens that a mask tells of.
    """

    def __init__(self, *, vocab: int) -> None:
        self._vocab = vocab
        self._num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
        self._threads: ThreadPoolExecutor | None = None  # made when they are first needed

    def of(self, plan: StepPlan) -> tuple[np.ndarray | None, list[Ended]]:
        """The masks of a step, i32[S, mask_words], and the requests that end instead of drawing. No row may wait.

        None where every row may draw any token. A row whose request has ended, or ends here, may draw what it likes;
        one whose constraints leave none draws -1.
        """
        bound = [(i, row) for i, row in enumerate(plan.rows) if is_bound(row)]
        if not bound:
            return None, []
        masks = np.full((plan.bucket.rows, mask_words(self._vocab)), 0xFFFFFFFF, np.uint32)
        jobs: dict[int, _Bound] = {}
        for i, row in bound:
            jobs.setdefault(id(row.request), []).append((row, masks[i]))
        ended = [end for end in self._run(list(jobs.values())) if end is not None]
        return masks.view(np.int32), ended

    def close(self) -> None:
        """End the threads, if there are any."""
        if self._threads is not None:
            self._threads.shutdown()

    def _run(self, jobs: list[_Bound]) -> Sequence[Ended | None]:
        if len(jobs) <= _ALONE or self._num_threads == 1:
            return [_fill(job) for job in jobs]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="masks")
        shares = [jobs[start :: self._num_threads] for start in range(self._num_threads)]
        done = [self._threads.submit(lambda share=share: [_fill(job) for job in share]) for share in shares if share]
        return [end for one in done for end in one.result()]


def _fill(job: _Bound) -> Ended | None:
    """Make one request's masks. Whatever goes wrong is about this request alone."""
    request = job[0][0].request
    for place, (row, mask) in enumerate(job):
        try:
            fill_mask(row, mask)
            continue
        except AnswerEnd:
            ended = Ended(request=request, reason=FinishReason.STOP)
        except BaseException as error:
            if not is_failure(error):
                raise
            said = f"{type(error).__name__}: {str(error)[:_SHOWN]}"
            ended = Ended(request=request, reason=FinishReason.ERROR, error=f"{UNKEPT}: {said}")
        if place == 0:  # what is behind the first row is a draft, which may be wrong
            mask.fill(0xFFFFFFFF)
            return ended
        mask.fill(0)
    return None
