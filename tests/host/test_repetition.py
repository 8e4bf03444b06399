"""When an answer goes round in circles, against the definition; and what it ends with."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from jaxpaged.errors import ParameterError
from jaxpaged.events import token_event
from jaxpaged.repetition import MAX_SPAN, RepetitionDetectionParams
from jaxpaged.repetition_search import RepetitionSearch
from jaxpaged.request import FinishReason, Request
from jaxpaged.sampling_params import SamplingParams


def detection(low: int, high: int, count: int) -> RepetitionDetectionParams:
    return RepetitionDetectionParams(min_pattern_size=low, max_pattern_size=high, min_count=count)


def repeats(text: Sequence[int], params: RepetitionDetectionParams) -> bool:
    """What a search says of the last token of a text."""
    search = RepetitionSearch(params)
    return [False, *map(search.read, text)][-1]


def test_what_counts_as_repetition() -> None:
    assert repeats([1, 2, 3, 1, 2, 3], detection(0, 3, 2))
    assert not repeats([1, 2, 3, 1, 2, 3], detection(0, 2, 2))
    assert not repeats([1, 2, 3, 1, 2, 3], detection(0, 3, 3))
    assert repeats([9, 4, 4, 4], detection(1, 1, 3))
    assert not repeats([4, 4, 4, 9], detection(1, 3, 3))
    assert not repeats([4, 4, 4], detection(2, 2, 2))
    assert repeats([4, 4, 4, 4], detection(2, 2, 2))
    assert not repeats([], detection(0, 0, 0))
    assert not repeats([1, 1, 1, 1], detection(0, 0, 0))


def test_repetition_against_its_definition() -> None:
    rng = random.Random(2)
    for _ in range(3000):
        text = rng.choices((1, 2), k=rng.randint(0, 12))
        low, count = rng.randint(0, 3), rng.randint(2, 4)
        high = rng.randint(max(low, 1), 5)
        expected = any(
            len(text) >= size * count and text[len(text) - size * count :] == text[len(text) - size :] * count
            for size in range(max(low, 1), high + 1)
        )
        assert repeats(text, detection(low, high, count)) == expected


def test_the_longest_search_is_quick_and_finds_the_longest_pattern() -> None:
    rng = random.Random(3)
    unlike = [rng.randrange(1000) for _ in range(3 * MAX_SPAN)]  # further than what is kept of an answer
    pattern = [rng.randrange(1000) for _ in range(MAX_SPAN // 2)]
    search = RepetitionSearch(detection(64, MAX_SPAN // 2, 2))
    began = time.process_time()
    said = [search.read(token) for token in (*unlike, *pattern, *pattern)]
    assert said.index(True) == len(said) - 1
    assert time.process_time() - began < 5e-4 * len(said)


@pytest.mark.parametrize(
    ("low", "high", "count", "told"),
    [
        (2, 1, 2, "min_pattern_size is 2"),
        (0, 3, 1, "min_count is 1"),
        (0, -1, 2, "max_pattern_size is -1"),
        (0, 1024, 5, "max_pattern_size x min_count is 5120: at most 4096"),
    ],
)
def test_bad_values_are_refused_by_name(low: int, high: int, count: int, told: str) -> None:
    with pytest.raises(ParameterError, match=f"repetition_detection.{told}"):
        detection(low, high, count)


def test_an_answer_that_repeats_itself_ends() -> None:
    params = SamplingParams(repetition_detection=detection(0, 2, 3), min_tokens=4)
    request = Request(id="a", prompt=(7, 7, 7), params=params, seed=0, max_tokens=9)
    request.tokens += [7, 7, 7, 7]
    ends = [token_event(request, place, None) for place in range(3, 7)]
    assert [event.finish for event in ends] == [None, None, None, FinishReason.REPETITION]  # min_tokens come first
    assert ends[-1].stop_reason == "repetition_detected"
    request.max_tokens = 4
    assert token_event(request, 6, None).finish is FinishReason.LENGTH
