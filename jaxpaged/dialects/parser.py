"""The parser of one answer: its text in, piece by piece; content, reasoning and calls out. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Callable

from jaxpaged.dialects.call_format import CallFormat
from jaxpaged.dialects.call_reader import CallReader
from jaxpaged.dialects.channels import ChannelReader
from jaxpaged.dialects.cursor import WHITE, Cursor, Reading, ignore
from jaxpaged.dialects.deltas import ContentDelta, Delta, ReasoningDelta, joined
from jaxpaged.dialects.marks import marks_of
from jaxpaged.dialects.reasoning_format import ReasoningFormat
from jaxpaged.dialects.tools import Tools


class DialectParser:
    """One per answer. The deltas of all calls, joined, do not depend on the pieces in which the text came; nothing in
    a text is an error; each character takes constant time.

    calls, reasoning: the formats; None where such is not looked for. tools: the functions that may be called.
    prompt: what the answer goes on with: templates begin the reasoning, or end it, where a model is to think, or not.
    new_id: makes ids for calls that bring none.
    """

    def __init__(
        self,
        *,
        calls: CallFormat | None,
        reasoning: ReasoningFormat | None,
        tools: Tools,
        prompt: str,
        new_id: Callable[[], str],
    ) -> None:
        self._cursor = Cursor()
        self._told: list[Delta] = []
        self._calls = calls and CallReader(self._cursor, calls, tools, tell=self._told.append, new_id=new_id)
        self._has_channels = any(form is not None and form.channels for form in (calls, reasoning))
        self._reasoning = reasoning
        self._begun = reasoning is not None and reasoning.begun_by(prompt)
        if reasoning is not None and reasoning.ended_by(prompt):
            self._reasoning = None
        self._reading = self._read()
        next(self._reading, None)

    def push(self, text: str) -> list[Delta]:
        """More of the answer. Returns what is certain now and was not before."""
        self._cursor.feed(text)
        return self._go_on()

    def finish(self) -> list[Delta]:
        """There is no more of it. Returns the rest."""
        self._cursor.end()
        return self._go_on()

    def _go_on(self) -> list[Delta]:
        next(self._reading, None)
        deltas = joined(self._told)
        self._told.clear()
        return deltas

    def _read(self) -> Reading[None]:
        if self._has_channels:
            reader = ChannelReader(
                self._cursor, self._calls, reasoning=self._reasoning is not None, tell=self._told.append
            )
            yield from reader.read()
            return
        if self._reasoning is not None:
            yield from self._think(self._reasoning)
        if self._calls is not None:
            yield from self._calls.read()
        else:
            yield from self._cursor.until(marks_of(()), self._content)

    def _think(self, form: ReasoningFormat) -> Reading[None]:
        """The reasoning, if the answer begins with it."""
        cursor = self._cursor
        cursor.keep()
        yield from cursor.run(WHITE, ignore)
        if (yield from cursor.match(form.opens)):
            cursor.kept()
        elif self._begun:
            self._thought(cursor.kept())
        else:
            self._content(cursor.kept())
            return
        ends = form.ends_before if self._calls is not None else ()
        mark = yield from cursor.until(marks_of((*form.closes, *ends)), self._thought)
        if mark in ends:
            cursor.back(len(mark))

    def _thought(self, text: str) -> None:
        if text:
            self._told.append(ReasoningDelta(text=text))

    def _content(self, text: str) -> None:
        if self._calls is not None:
            self._calls.text(text)
        elif text:
            self._told.append(ContentDelta(text=text))
