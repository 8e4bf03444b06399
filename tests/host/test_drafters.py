"""Guesses from the text itself: n-grams, suffixes, finished answers; against brute force where there is one."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpaged.speculation.answers import AnswerReader, AnswerStore
from jaxpaged.speculation.automaton import ROOT, SuffixAutomaton
from jaxpaged.speculation.drafter import Drafter, Guess, continuation
from jaxpaged.speculation.forced import ForcedDrafter
from jaxpaged.speculation.ngram import NgramDrafter
from jaxpaged.speculation.suffix import SuffixDrafter

TEXTS = st.lists(st.integers(0, 3), max_size=40)


def learned(drafter: Drafter, tokens: Sequence[int], *, piece: int = 3) -> Drafter:
    for end in range(piece, len(tokens) + piece, piece):
        drafter.learn(tokens, min(end, len(tokens)))
    assert drafter.num_learned == len(tokens)
    return drafter


def test_the_latest_ngram_goes_on_as_it_did_before() -> None:
    text = [1, 2, 3, 4, 5, 9, 1, 2, 3]
    drafter = learned(NgramDrafter(shortest=2, longest=3), text)
    assert drafter.guess(text, 3) == Guess((4, 5, 9), 3)
    assert drafter.guess(text, 2).tokens == (4, 5)


def test_the_longest_ngram_counts_and_of_these_the_latest_place() -> None:
    text = [7, 1, 2, 3, 1, 2, 4, 7, 1, 2, 5, 8, 1, 2]
    drafter = learned(NgramDrafter(shortest=2, longest=3), text)
    assert drafter.guess(text, 1) == Guess((5,), 2)
    text += [5, 7, 1, 2]
    assert learned(drafter, text).guess(text, 1) == Guess((5,), 3)


def test_nothing_is_guessed_where_no_ngram_was_there_before() -> None:
    text = [1, 2, 3, 4, 2, 5, 3]
    assert not learned(NgramDrafter(shortest=2, longest=4), text).guess(text, 4).tokens
    assert not NgramDrafter(shortest=1, longest=4).guess([], 4).tokens


def test_a_text_that_repeats_is_guessed_past_its_end() -> None:
    text = [1, 2, 3, 1, 2, 3]
    assert learned(NgramDrafter(shortest=3, longest=3), text).guess(text, 7).tokens == (1, 2, 3, 1, 2, 3, 1)
    assert continuation([5, 6], 0, 2, 5) == (5, 6, 5, 6, 5)
    suffix = SuffixDrafter(depth=8, factor=4.0, answers=None)
    assert learned(suffix, text).guess(text, 7) == Guess((1, 2, 3, 1, 2, 3, 1), 3)


@given(text=TEXTS, shortest=st.integers(1, 4), more=st.integers(0, 3))
def test_an_ngram_is_found_where_brute_force_finds_it(text: list[int], shortest: int, more: int) -> None:
    guess = learned(NgramDrafter(shortest=shortest, longest=shortest + more), text).guess(text, 2)
    for length in range(shortest + more, shortest - 1, -1):
        places = [end for end in range(length, len(text)) if text[end - length : end] == text[len(text) - length :]]
        if places:
            assert guess.tokens == continuation(text, places[-1], len(text), 2)
            assert guess.match >= length
            return
    assert not guess.tokens


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_automaton_knows_every_substring_and_no_other(texts: list[list[int]]) -> None:
    automaton, everything = SuffixAutomaton(), []
    for number, text in enumerate(texts):
        if number:
            automaton.begin()
            everything.append(-1)
        for end, token in enumerate(text, 1):
            length, place = automaton.read(token)
            before = [*everything, -2]
            everything.append(token)
            suffixes = [n for n in range(1, end + 1) if is_part(text[end - n : end], before)]
            assert length == max(suffixes, default=0)
            assert everything[max(0, place - length) : place] == text[end - length : end]
            assert place < len(everything) or not length
    whole = [part for text in texts for part in parts(text)]
    for part in parts([0, 1, 2, 3, 0, 1, 1, 2, 0]):
        state = ROOT
        for token in part:
            state = automaton.step(state, token) if state >= 0 else state
        assert (state >= 0) == (part in whole)


def parts(text: list[int]) -> list[list[int]]:
    return [text[a:b] for a in range(len(text)) for b in range(a + 1, len(text) + 1)]


def is_part(part: list[int], text: list[int]) -> bool:
    return any(text[a : a + len(part)] == part for a in range(len(text)))


@given(answers=st.lists(TEXTS.filter(bool), min_size=1, max_size=4), text=TEXTS, late=st.integers(0, 40))
def test_a_reader_follows_answers_while_they_are_read(answers: list[list[int]], text: list[int], late: int) -> None:
    """The match is never longer than brute force finds it, and as long once all answers were read before."""
    store = AnswerStore(100)
    for answer in answers[:-1]:
        store.add(answer)
        read_all(store)
    reader = AnswerReader(store)
    for i, token in enumerate(text):
        if i == late:
            store.add(answers[-1])
            read_all(store)
        reader.read(token)
    found = reader.longest()
    there = answers if late < len(text) else answers[:-1]
    longest = max((n for n in range(len(text) + 1) if any(is_part(text[len(text) - n :], a) for a in there)), default=0)
    length = 0 if found is None else found[2]
    assert length == longest if late == 0 or late >= len(text) else length <= longest
    if found is not None:
        generation, place, length = found
        assert generation.tokens[place - length : place].tolist() == text[len(text) - length :]


def read_all(store: AnswerStore) -> None:
    for _ in range(100):
        store.work()


def test_answers_of_others_are_guessed_from_and_end_where_they_ended() -> None:
    store = AnswerStore(10)
    store.add([5, 6, 7, 8])
    store.add([9, 5, 6, 1])
    read_all(store)
    text = [3, 5, 6]
    drafter = learned(SuffixDrafter(depth=8, factor=4.0, answers=store), text)
    assert drafter.guess(text, 5) == Guess((1,), 2)  # the later one of two
    text += [7]
    assert learned(drafter, text).guess(text, 5) == Guess((8,), 3)


def test_the_requests_own_text_comes_first_and_a_longer_match_before_it() -> None:
    store = AnswerStore(10)
    store.add([4, 1, 2, 3, 30])
    read_all(store)
    text = [1, 2, 3, 9, 1, 2, 3]
    drafter = learned(SuffixDrafter(depth=8, factor=1.0, answers=store), text)
    assert drafter.guess(text, 1) == Guess((9,), 3)
    text = [1, 2, 3, 9, 4, 1, 2, 3]
    drafter = learned(SuffixDrafter(depth=8, factor=1.0, answers=store), text)
    assert drafter.guess(text, 1) == Guess((30,), 4)


@pytest.mark.parametrize(
    ("depth", "factor", "most", "count"), [(8, 1.0, 9, 5), (3, 1.0, 9, 3), (8, 0.5, 9, 2), (8, 0.1, 9, 0), (8, 2, 4, 4)]
)
def test_longer_matches_make_longer_guesses(depth: int, factor: float, most: int, count: int) -> None:
    text = [1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10, 11, 1, 2, 3, 4, 5]
    guess = learned(SuffixDrafter(depth=depth, factor=factor, answers=None), text).guess(text, most)
    assert guess.tokens == (0, 6, 7, 8, 9, 10, 11)[:count]


def test_the_store_forgets_the_oldest_and_stays_small() -> None:
    store = AnswerStore(4)
    for number in range(20):
        store.add([number * 10 + i for i in range(5)])
        read_all(store)
    kept = [generation.tokens.tolist() for generation in store.generations]
    assert [token for tokens in kept for token in tokens if token % 10 == 0] == [160, 170, 180, 190]
    none = AnswerStore(0)
    none.add([1, 2, 3])
    read_all(none)
    assert not none.generations
    flooded = AnswerStore(10)
    for _ in range(100):
        flooded.add([1] * 1000)
    assert flooded._num_queued <= 65_536


def test_what_a_token_costs_does_not_grow_with_the_text() -> None:
    """The last tenth of a long text takes no longer than a few times the first one."""
    rng = random.Random(3)
    text = [rng.randrange(50) for _ in range(40_000)]
    for drafter in (NgramDrafter(shortest=2, longest=5), SuffixDrafter(depth=24, factor=1.0, answers=None)):
        took = []
        for end in range(4000, len(text) + 1, 4000):
            began = time.process_time()
            drafter.learn(text, end)
            for _ in range(100):
                drafter.guess(text, 8)
            took.append(time.process_time() - began)
        assert min(took[-3:]) < 6 * min(took[:3]), took


class Breaks:
    """A constraint that cannot say what it leaves alone."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def forced(self, output: Sequence[int], most: int) -> list[int]:
        del output, most
        raise self.error


def test_a_constraint_that_fails_forces_nothing() -> None:
    tokens = [1, 2, 3, 1, 2]
    for error, ends in ((ValueError("too many items"), False), (KeyboardInterrupt(), True)):
        drafter = ForcedDrafter(NgramDrafter(shortest=1, longest=2), Breaks(error), prompt=2)
        drafter.learn(tokens, len(tokens))
        if ends:
            with pytest.raises(KeyboardInterrupt):
                drafter.guess(tokens, 2)
        else:
            assert drafter.guess(tokens, 1).tokens == (3,), "the request's own text goes on guessing"
