"""A request's answer, held to its grammar token by token. [host half: no jax]"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future

import llguidance
import numpy as np

from jaxpaged.answer_end import AnswerEnd
from jaxpaged.errors import GrammarError
from jaxpaged.structured.library import one_line
from jaxpaged.structured.readings import Compiled, Reading
from jaxpaged.structured.vocabulary import bits_of

MAX_MASK_S = 0.5
"""Seconds of a processor for one mask. All requests wait for it; that of a schema takes a thousandth of it."""


class GrammarConstraint:
    """A `Constraint`: nothing but what the grammar allows after the answer so far.

    Where the answer may end, the request's ends may come, and where it must, nothing else may. What a fill has seen of
    the answer is kept by the matcher for the next one: an answer that goes on is read on, one that went back is rolled
    back. Not for several threads at a time.
    """

    follows = True

    def __init__(self, reading: Reading, *, ends: Collection[int]) -> None:
        """reading: of the grammar. The first fill waits for it, and raises what is wrong with it. ends: tokens that end
        an answer."""
        self._reading = reading
        self.made: Future[Compiled] = reading.made
        self._ends = frozenset(ends)
        self._matcher: llguidance.LLMatcher | None = None
        self._read: list[int] = []  # what the matcher has read
        self._is_dead = False  # whether a token came that the grammar does not allow there

    @property
    def is_ready(self) -> bool:
        """Whether a fill does not wait for the grammar."""
        return self.made.done()

    def drop(self) -> None:
        """There will be no fill."""
        self._reading.drop()

    def give_up(self, error: GrammarError) -> None:
        """Wait no longer: the next fill raises this."""
        self._reading.drop()
        self.made = Future()
        self.made.set_exception(error)

    def fill(self, output: Sequence[int], mask: np.ndarray) -> None:
        """Raises AnswerEnd where the answer is whole and nothing may follow on it; GrammarError for a grammar that
        cannot be kept to, as one that takes too much time."""
        ended = self._follow(list(output))
        if self._is_dead:
            mask.fill(0)
            return
        allowed = self._allowed()
        may_end = ended or bool(allowed[self._end // 32] >> np.uint32(self._end % 32) & np.uint32(1))
        allowed = np.zeros_like(self._valid) if ended else allowed[: len(self._valid)] & self._valid
        mask &= allowed | self._end_bits if may_end else allowed
        if may_end and not mask.any():
            raise AnswerEnd

    def forced(self, output: Sequence[int], most: int) -> list[int]:
        """The tokens, `most` at most, that alone may come after these: each is the only one that `fill` would leave.
        Behind an end, the answer's last token, there are none."""
        found: list[int] = []
        mask: np.ndarray | None = None
        while len(found) < most:
            known = [*output, *found]
            mask = None if known and known[-1] in self._ends else self._alone(known)
            if mask is None:
                break
            word = int(np.flatnonzero(mask)[0])
            found.append(32 * word + int(mask[word]).bit_length() - 1)
        return found

    def _alone(self, output: list[int]) -> np.ndarray | None:
        """The mask after these tokens, where it has one bit."""
        if self._matcher is None:
            self._matcher = self._start()
        mask = np.full_like(self._valid, 0xFFFFFFFF)
        try:
            self.fill(output, mask)
        except AnswerEnd:
            return None
        return mask if int(np.bitwise_count(mask).sum()) == 1 else None

    def _start(self) -> llguidance.LLMatcher:
        matcher, vocabulary = self.made.result()
        matcher = matcher.deep_copy()  # takes microseconds
        self._end = vocabulary.end
        self._scratch = np.zeros(vocabulary.num_words, np.uint32)
        num_words = -(-vocabulary.width // 32)
        self._valid = np.full(num_words, 0xFFFFFFFF, np.uint32)
        if vocabulary.width % 32:
            self._valid[-1] = (1 << vocabulary.width % 32) - 1
        self._end_bits = bits_of(sorted(self._ends), num_words)
        self._read = []
        return matcher

    def _follow(self, output: list[int]) -> bool:
        """Let the matcher read this answer. True where an end came in it, behind which only ends do."""
        read = self._read
        if self._matcher is None:
            self._matcher, read = self._start(), self._read
        if output[: len(read)] != read:
            same = next(i for i, token in enumerate(read) if i >= len(output) or output[i] != token)
            if not self._matcher.rollback(len(read) - same):  # some grammars cannot go back
                self._matcher, same = self._start(), 0
            read = self._read = self._read[:same]
        new = output[len(read) :]
        count = self._matcher.try_consume_tokens(new) if new and not self._matcher.is_stopped() else 0
        self._check()
        read += new[:count]
        rest = new[count:]
        ended = bool(rest) and rest[0] in self._ends and (self._matcher.is_stopped() or self._matcher.is_accepting())
        self._is_dead = bool(rest) and not ended
        return ended

    def _allowed(self) -> np.ndarray:
        assert self._matcher is not None
        began_s = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._scratch.ctypes.data, self._scratch.nbytes)
        self._check()
        if (spent_s := time.thread_time() - began_s) > MAX_MASK_S:
            raise too_slow("structured_outputs", spent_s)
        return self._scratch

    def _check(self) -> None:
        """After an error a matcher says that the answer may end, which must not be believed."""
        assert self._matcher is not None
        if self._matcher.is_error():
            said = one_line(self._matcher.get_error())
            self._reading.forget()  # copies have one lexer, which may be what is full or broken
            raise GrammarError(
                name="structured_outputs", value="a grammar", limit=f"the answer cannot be held to it: {said}"
            )


def too_slow(name: str, spent_s: float) -> GrammarError:
    """The error of a form one mask of which took so many seconds of a processor."""
    limit = f"which tokens may come next took {spent_s:.2f} s to find out, and {MAX_MASK_S:g} s are given to one"
    return GrammarError(name=name, value="a grammar", limit=limit, fix="Ask for a simpler form")
