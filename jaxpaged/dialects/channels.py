"""Reads an answer that is a sequence of messages with channels and recipients, as gpt-oss writes. [host half: no jax]

A message is `<|start|>role<|channel|>analysis to=functions.f <|constrain|>json<|message|>...<|end|>`. The prompt ends
with the role of the first one. Channel analysis is reasoning; final, and commentary to nobody, are content.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from jaxpaged.dialects.call_reader import CallReader
from jaxpaged.dialects.cursor import NAME, Cursor, MalformedError, Reading
from jaxpaged.dialects.deltas import ContentDelta, Delta, ReasoningDelta
from jaxpaged.dialects.marks import marks_of

_BEGINS = ("<|start|>", "<|channel|>")
_BODY = "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_CONSTRAIN = "<|constrain|>"
ANALYSIS_BEGIN = "<|channel|>analysis<|message|>"
ANALYSIS_END = "<|end|>"
NEXT_MESSAGE = "<|start|>assistant"
FINAL_BEGIN = "<|channel|>final<|message|>"
"""As the model writes what it thinks, goes on, and answers."""
CHANNEL_MARKS = (*_BEGINS, _BODY, *_ENDS, _CONSTRAIN)
"""All of them are special tokens."""
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


class ChannelReader:
    """calls: reads what is addressed to functions; None where that is content as well. reasoning: whether analysis is
    told apart from the content."""

    def __init__(
        self, cursor: Cursor, calls: CallReader | None, *, reasoning: bool, tell: Callable[[Delta], None]
    ) -> None:
        self._cursor = cursor
        self._calls = calls
        self._reasoning = reasoning
        self._tell = tell

    def read(self) -> Reading[None]:
        """All of the answer."""
        cursor = self._cursor
        outside = marks_of((*_BEGINS, *_ENDS))
        while mark := (yield from cursor.until(outside, self._content)):
            if mark in _BEGINS:
                yield from self._message(mark)
        if self._calls is not None:
            self._calls.end()

    def _message(self, mark: str) -> Reading[None]:
        cursor = self._cursor
        cursor.keep(mark)
        header = [mark]
        while (mark := (yield from cursor.until(marks_of(CHANNEL_MARKS), header.append))) != _BODY:
            if mark in ("", *_ENDS):  # a head without a body
                self._content(cursor.kept())
                return
            header.append(mark)
        cursor.kept()
        head = "".join(header)
        body = marks_of((*_BEGINS, *_ENDS))
        recipient = _RECIPIENT.search(head)
        if recipient is not None and self._calls is not None and NAME.fullmatch(recipient[1]):
            mark = yield from self._call(self._calls, recipient[1])
        else:
            channel = _CHANNEL.search(head)
            thought = self._reasoning and channel is not None and channel[1] == "analysis"
            mark = yield from cursor.until(body, self._thought if thought else self._content)
        if mark in _BEGINS:  # the end of the message before is missing
            cursor.back(len(mark))

    def _call(self, calls: CallReader, name: str) -> Reading[str]:
        """Tell a message that is the arguments of a call; what is none of its name is content."""
        draft = calls.draft()
        try:
            draft.begin(name, verbatim=True)
        except MalformedError:
            return (yield from self._cursor.until(marks_of((*_BEGINS, *_ENDS)), self._content))
        count = 0

        def add(text: str) -> None:
            nonlocal count
            count += len(text)
            draft.add(text)

        mark = yield from self._cursor.until(marks_of((*_BEGINS, *_ENDS)), add)
        if not count and mark:
            draft.add("{}")
        return mark

    def _content(self, text: str) -> None:
        if self._calls is not None:
            self._calls.text(text)
        elif text:
            self._tell(ContentDelta(text=text))

    def _thought(self, text: str) -> None:
        self._tell(ReasoningDelta(text=text))
