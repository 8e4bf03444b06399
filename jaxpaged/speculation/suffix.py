"""Guesses by the longest suffix that was there before, in the request or in finished answers. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence

from jaxpaged.speculation.answers import AnswerReader, AnswerStore
from jaxpaged.speculation.automaton import SuffixAutomaton
from jaxpaged.speculation.drafter import NO_GUESS, Guess, continuation


class SuffixDrafter:
    """Guesses as many tokens as `factor` times those of the match, of which `depth` count at most.

    answers: of other requests; None: only the request's own text is looked into, which comes first where both match
    alike.
    """

    def __init__(self, *, depth: int, factor: float, answers: AnswerStore | None) -> None:
        self.num_learned = 0
        self._depth, self._factor = depth, factor
        self._automaton = SuffixAutomaton()
        self._reader = None if answers is None else AnswerReader(answers)
        self._match = (0, 0)  # tokens, and a place after them

    def learn(self, tokens: Sequence[int], end: int) -> None:
        for token in tokens[self.num_learned : end]:
            self._match = self._automaton.read(token)
            if self._reader is not None:
                self._reader.read(token)
        self.num_learned = max(self.num_learned, end)

    def guess(self, tokens: Sequence[int], most: int) -> Guess:
        length, place = self._match
        others = None if self._reader is None else self._reader.longest()
        match = min(self._depth, max(length, others[2] if others else 0))
        count = min(most, int(match * self._factor))
        if not count:
            return NO_GUESS
        if others is None or others[2] <= length:
            return Guess(continuation(tokens, place, self.num_learned, count), match)
        generation, there, _ = others
        return Guess(generation.after(there, count), match)
