"""The masks of a step: what rows may draw, what waits, and what ends instead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from jaxpaged.answer_end import AnswerEnd
from jaxpaged.buckets import Bucket
from jaxpaged.mask_filler import MaskFiller
from jaxpaged.masks import waits
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import PENDING, FinishReason, Request, RequestState
from jaxpaged.sampling_params import SamplingParams


class Only:
    """A constraint that leaves the tokens of this mask, whatever came before."""

    def __init__(self, word: int, *, follows: bool = False, then: Callable[[], None] = lambda: None) -> None:
        self.word, self.follows, self.then = word, follows, then
        self.outputs: list[list[int]] = []
        self.threads: set[str] = set()

    def fill(self, output: Sequence[int], mask: np.ndarray) -> None:
        self.outputs.append(list(output))
        self.threads.add(threading.current_thread().name)
        mask &= np.uint32(self.word)
        self.then()


def request(name: str, tokens: list[int], prompt: int, *constraints: Only) -> Request:
    made = Request(id=name, prompt=tuple(tokens[:prompt]), params=SamplingParams(), seed=1, max_tokens=9, tokens=tokens)
    made.constraints = constraints
    return made


def step(*requests: Request, rows: int = 4) -> StepPlan:
    """A step in which each request draws its next token."""
    planned = tuple(RowPlan(r, r.num_tokens - 1, 1, True) for r in requests)
    return StepPlan(rows=planned, bucket=Bucket(tokens=rows, rows=rows))


def test_what_rows_may_draw() -> None:
    both = Only(0b1100111), Only(0b0111111)
    decoding, free = request("a", [5, 6, 7, 8], 3, *both), request("b", [1, 2], 2)
    prompt = RowPlan(request("c", [1, 2, 3], 3, Only(0b1)), 0, 2, False)  # draws nothing yet
    planned = step(decoding, free)
    masks, ended = MaskFiller(vocab=40).of(StepPlan(rows=(*planned.rows, prompt), bucket=planned.bucket))
    assert masks is not None
    assert masks.dtype == np.int32
    assert masks.tolist() == [[0b0100111, 0b0100111], [-1, -1], [-1, -1], [-1, -1]]
    assert ended == []
    assert both[0].outputs == [[8]]


def test_none_where_every_row_may_draw_any_token() -> None:
    assert MaskFiller(vocab=40).of(step(request("a", [1, 2], 2))) == (None, [])


def test_masks_that_wait_are_not_made() -> None:
    waiting = request("a", [5, 6, PENDING], 2, Only(0b1))
    masks, _ = MaskFiller(vocab=10).of(step(waiting))
    assert masks is not None
    assert masks[0].tolist() == [1]
    waiting.constraints = (Only(0b1), Only(0b11, follows=True))
    assert [waits(row) for row in step(waiting).rows] == [True]
    waiting.tokens[-1] = 8
    masks, _ = MaskFiller(vocab=10).of(step(waiting))
    assert masks is not None
    assert masks[:2, 0].tolist() == [1, -1]
    waiting.state = RequestState.FINISHED  # ended since the plan
    assert not waits(step(waiting).rows[0])
    assert MaskFiller(vocab=10).of(step(waiting)) == (None, [])


@pytest.mark.parametrize("count", [2, 12])
def test_what_goes_wrong_is_about_one_request(count: int) -> None:
    def raises(error: BaseException) -> Callable[[], None]:
        def then() -> None:
            raise error

        return then

    others = [request(f"o{i}", [1, 2], 2, Only(0b1)) for i in range(count)]
    broken = request("broken", [1, 2], 2, Only(0b1, then=raises(ValueError("no such state"))))
    whole = request("whole", [1, 2], 2, Only(0b1, then=raises(AnswerEnd())))
    nothing = request("nothing", [1, 2], 2, Only(0))
    masks, ended = MaskFiller(vocab=10).of(step(*others, broken, whole, nothing, rows=16))
    assert masks is not None
    assert masks[:, 0].tolist() == [1] * count + [-1, -1, 0] + [-1] * (13 - count)
    by_id = {end.request.id: end for end in ended}
    assert set(by_id) == {"broken", "whole"}  # one whose constraints leave nothing draws -1, which ends it
    assert by_id["whole"].reason is FinishReason.STOP
    assert by_id["broken"].reason is FinishReason.ERROR
    assert by_id["broken"].error == "its constraints cannot be kept: ValueError: no such state"


def test_several_threads_make_masks_of_several_requests() -> None:
    requests = [request(f"r{i}", [1, 2], 2, Only(i + 1, then=lambda: time.sleep(0.01))) for i in range(16)]
    filler = MaskFiller(vocab=10)
    for _ in range(3):
        masks, ended = filler.of(step(*requests, rows=16))
        assert masks is not None
        assert masks[:, 0].tolist() == [i + 1 for i in range(16)]
        assert ended == []
    threads = {name for one in requests for constraint in one.constraints for name in constraint.threads}  # pyright: ignore[reportAttributeAccessIssue]
    assert all(name.startswith("masks") for name in threads)
    filler.close()
