"""Text that comes in pieces, read by generators. [host half: no jax]

A reader is a generator: it yields where it needs text that has not come yet, and goes on when there is more, or when
all has come. So it is written as if the whole text were there, and what it finds does not depend on the cuts. Kept of
what has come is what no reader took yet: less than the longest mark that is looked for, so that reading is linear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from jaxpaged.dialects.marks import Marks

Result = TypeVar("Result")
Reading = Generator[None, None, Result]
Sink = Callable[[str], None]

WHITE = re.compile(r"\s+")
NAME = re.compile(r"[\w.:/@-]+")
"""Of a function; and of what stands in its place in some formats, as in `functions.f:0`."""


class MalformedError(Exception):
    """The text is not what its beginning promised. Caught where that beginning was found; no user meets it."""


def ignore(text: str) -> None:
    """As `Sink`: the text says nothing."""
    del text


class Cursor:
    """A place in a text of which more may come. Only its owner feeds it, only one reader at a time moves it."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._taken: list[str] | None = None

    def feed(self, text: str) -> None:
        """More of the text."""
        assert not self._ended
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """All of the text has come."""
        self._ended = True

    def keep(self, mark: str = "") -> None:
        """Remember what is taken from here on, after `mark`, for `kept`."""
        self._taken = [mark]

    def kept(self) -> str:
        """What was taken since `keep`, which ends."""
        taken, self._taken = self._taken, None
        return "".join(taken or ())

    def take(self, count: int) -> str:
        """The next characters, which must have come."""
        piece = self._text[self._at : self._at + count]
        assert len(piece) == count
        self._at += count
        if self._taken is not None:
            self._taken.append(piece)
        return piece

    def back(self, count: int) -> None:
        """Give back the last characters taken, before anything else is read or kept."""
        assert self._at >= count
        assert self._taken is None
        self._at -= count

    def peek(self) -> Reading[str]:
        """The next character, not taken; "" at the end."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def match(self, options: Sequence[str]) -> Reading[str]:
        """The longest of these that the text goes on with, taken; "" where it goes on with none."""
        while not self._ended and self._is_begun(options):
            yield
        found = max((option for option in options if self._text.startswith(option, self._at)), key=len, default="")
        self.take(len(found))
        return found

    def expect(self, option: str) -> Reading[None]:
        """Take what must stand here, after white space. Raises MalformedError where it does not."""
        yield from self.run(WHITE, ignore)
        if not (yield from self.match((option,))):
            raise MalformedError

    def run(self, pattern: re.Pattern[str], sink: Sink) -> Reading[int]:
        """All characters of a kind that come next, to the sink. pattern: of one or more of them. Returns how many."""
        count = 0
        while True:
            if found := pattern.match(self._text, self._at):
                piece = self.take(found.end() - self._at)
                count += len(piece)
                sink(piece)
            if self._ended or self._at < len(self._text):
                return count
            yield

    def word(self, pattern: re.Pattern[str], *, most: int = 256) -> Reading[str]:
        """The characters of a kind that come next. Raises MalformedError where there are none, or more than `most`."""
        parts: list[str] = []
        count = yield from self.run(pattern, parts.append)
        if not 0 < count <= most:
            raise MalformedError
        return "".join(parts)

    def until(self, marks: Marks, sink: Sink) -> Reading[str]:
        """The text up to the first of the marks, to the sink. The mark is taken and returned; "" at the end."""
        while True:
            found = marks.pattern.search(self._text, self._at)
            # a mark that may have begun before this one, or may be a longer one, comes first
            far = found is not None and found.start() <= len(self._text) - marks.longest
            begun = len(self._text) if self._ended or far else marks.begun(self._text, self._at)
            certain = begun if found is None else min(begun, found.start())
            if certain > self._at:
                sink(self.take(certain - self._at))
            if found is not None and (self._ended or begun > found.start()):
                return self.take(len(found[0]))
            if self._ended:
                return ""
            yield

    def _is_begun(self, options: Sequence[str]) -> bool:
        left = len(self._text) - self._at
        return any(len(option) > left and option.startswith(self._text[self._at :]) for option in options)
