"""Finished answers that guesses may be taken from, in bounded memory. [host half: no jax]"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

from jaxpaged.speculation.automaton import ROOT, SuffixAutomaton

_END = -1  # stands behind each answer
_MOST_TOKENS = 65_536  # of a generation: an automaton of so many takes some 15 MB
_MOST_QUEUED = 65_536
_READ_AT_ONCE = 64  # some 0.2 ms


class Generation:
    """Answers that are forgotten together. tokens: of all of them, one after the other, with an end behind each."""

    def __init__(self) -> None:
        self.automaton = SuffixAutomaton()
        self.tokens = array("i")
        self.num_answers = 0

    def begin(self) -> None:
        """What is read next is another answer."""
        if self.num_answers:
            self.automaton.begin()
            self.tokens.append(_END)
        self.num_answers += 1

    def read(self, token: int) -> None:
        """The answer's next token."""
        self.automaton.read(token)
        self.tokens.append(token)

    def after(self, place: int, count: int) -> tuple[int, ...]:
        """At most `count` tokens from a place on, within its answer."""
        found = self.tokens[place : place + count].tolist()
        return tuple(found[: found.index(_END)] if _END in found else found)


class AnswerStore:
    """The latest answers, in two generations: when the younger one is full, the older one goes."""

    def __init__(self, most_answers: int) -> None:
        self.generations: tuple[Generation, ...] = ()
        """The older one first."""
        self._most = most_answers
        self._queue: deque[Sequence[int]] = deque()
        self._num_queued = 0
        self._at = 0  # tokens of the first queued answer that were read

    def add(self, answer: Sequence[int]) -> None:
        """Queue an answer. It is read piece by piece, see `work`; one too many is dropped."""
        if self._most and answer and self._num_queued + len(answer) <= _MOST_QUEUED:
            self._queue.append(answer)
            self._num_queued += len(answer)

    def work(self) -> None:
        """Read a little of what is queued."""
        for _ in range(min(_READ_AT_ONCE, self._num_queued)):
            answer = self._queue[0]
            if self._at == 0:
                self._youngest().begin()
            self.generations[-1].read(answer[self._at])
            self._num_queued -= 1
            self._at += 1
            if self._at == len(answer):
                self._queue.popleft()
                self._at = 0

    def _youngest(self) -> Generation:
        """The generation that the next answer goes into."""
        half = max(1, self._most // 2)
        if self.generations:
            youngest = self.generations[-1]
            if youngest.num_answers < half and len(youngest.tokens) < _MOST_TOKENS:
                return youngest
        kept = self.generations[-1:] if self._most > 1 else ()
        self.generations = (*kept, Generation())
        return self.generations[-1]


class AnswerReader:
    """How much of one request's latest tokens stands in the answers of a store."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._cursors: tuple[tuple[Generation, int, int], ...] = ()  # state and length of the match in each

    def read(self, token: int) -> None:
        """The request's next token."""
        generations = self._store.generations
        if not generations:
            return
        known = {id(generation): (state, length) for generation, state, length in self._cursors}
        self._cursors = tuple(
            (generation, *generation.automaton.follow(*known.get(id(generation), (ROOT, 0)), token))
            for generation in generations
        )

    def longest(self) -> tuple[Generation, int, int] | None:
        """The generation with the longest match, a place after it, and its length; the younger of two. None: none."""
        found = max(reversed(self._cursors), key=lambda cursor: cursor[2], default=None)
        if found is None or found[2] == 0:
            return None
        generation, state, length = found
        return generation, generation.automaton.place[state], length
