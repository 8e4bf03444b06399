"""Grammars that are read, or were: each once, for all answers that ask for its form. [host half: no jax]"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from threading import RLock

import llguidance

from jaxpaged.structured.params import StructuredOutputsParams, size_of
from jaxpaged.structured.vocabulary import Vocabulary

MAX_FORMS = 64
MAX_CHARACTERS = 1 << 20
"""Of the texts of forms whose grammars are kept: what was read has some hundred times their size."""

Compiled = tuple[llguidance.LLMatcher, Vocabulary]
Asked = tuple[StructuredOutputsParams, str]
"""A form, and the namespace that asks: copies share a lexer, and so its limit of states, and its failure."""


class Reading:
    """One grammar: `made` has it once it is read, or what is wrong with it. Copies of its matcher are taken, and know
    what any of them has found out about the grammar."""

    def __init__(self, owner: Readings, asked: Asked, made: Future[Compiled]) -> None:
        self.made = made
        self.asked = asked
        self.wanted = 0  # answers that asked for it and were not dropped
        self._owner = owner

    def drop(self) -> None:
        """One of those that asked for it does not want it any more; what nobody wants is not begun."""
        self._owner.drop(self)

    def forget(self) -> None:
        """Let the next answer have it read again: this one broke."""
        self._owner.forget(self)


class Readings:
    """The last forms that were asked for. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._kept: OrderedDict[Asked, Reading] = OrderedDict()
        self._num_characters = 0

    def of(self, asked: Asked, threads: Executor, read: Callable[[], Compiled]) -> Reading:
        """The reading of this form, which begins where there is none. read: called in one of the threads."""
        with self._lock:
            reading = self._kept.get(asked)
            if reading is None:
                reading = self._kept[asked] = Reading(self, asked, threads.submit(read))
                self._num_characters += size_of(asked[0])
                reading.made.add_done_callback(partial(self._done, reading))
            reading.wanted += 1
            if asked in self._kept:  # else it has failed already
                self._kept.move_to_end(asked)
            while len(self._kept) > 1 and (len(self._kept) > MAX_FORMS or self._num_characters > MAX_CHARACTERS):
                self.forget(next(iter(self._kept.values())))
            return reading

    def drop(self, reading: Reading) -> None:
        """See `Reading.drop`."""
        with self._lock:
            reading.wanted -= 1
            if reading.wanted == 0 and reading.made.cancel():
                self.forget(reading)

    def forget(self, reading: Reading) -> None:
        """See `Reading.forget`."""
        with self._lock:
            if self._kept.get(reading.asked) is reading:
                del self._kept[reading.asked]
                self._num_characters -= size_of(reading.asked[0])

    def _done(self, reading: Reading, made: Future[Compiled]) -> None:
        if made.cancelled() or made.exception() is not None:
            self.forget(reading)
