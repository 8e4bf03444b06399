"""Reads text that may hold calls: tells the text, and the calls, each as it comes. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Callable

from jaxpaged.dialects.call_format import Body, CallFormat, NamedBody, ObjectBody, PairsBody, PythonBody, WholeBody
from jaxpaged.dialects.cursor import WHITE, Cursor, MalformedError, Reading, ignore
from jaxpaged.dialects.deltas import CallDelta, ContentDelta, Delta
from jaxpaged.dialects.draft import Draft
from jaxpaged.dialects.marks import marks_of
from jaxpaged.dialects.object_call import named_call, object_call
from jaxpaged.dialects.pairs_call import pairs_call
from jaxpaged.dialects.python_call import python_call
from jaxpaged.dialects.tools import Tools


class CallReader:
    """Follows a `CallFormat`.

    What promised to be a call and is none is text. Once a call has begun to be told it stays one: of what cannot be
    read in it, JSON goes on as it is written up to the mark of its end, and the rest is text. White space before,
    between and after calls is nobody's where nothing else is there.
    """

    def __init__(
        self,
        cursor: Cursor,
        form: CallFormat,
        tools: Tools,
        *,
        tell: Callable[[Delta], None],
        new_id: Callable[[], str],
    ) -> None:
        self._cursor = cursor
        self._form = form
        self._tools = tools
        self._tell = tell
        self._new_id = new_id
        self._num_calls = 0
        self._gap = True  # nothing but white space and frames since the beginning, or since a call
        self._held: list[str] = []  # that white space, and those frames

    def read(self) -> Reading[None]:
        """All of the text."""
        form = self._form
        marks = marks_of((*form.opens, *form.bare, *form.frames, *form.closes))
        while mark := (yield from self._cursor.until(marks, self.text)):
            if mark in form.opens or mark in form.bare:
                yield from self._calls(mark)
            elif mark in form.frames:
                self._gap = True
                self._held.append(mark)
            elif not (self._gap and self._num_calls):
                self.text(mark)
        self.end()

    def text(self, text: str) -> None:
        """This is no part of a call."""
        if not text:
            return
        if self._gap:
            if text.isspace():
                self._held.append(text)
                return
            self._gap = False
            text = "".join((*self._held, text))
            self._held.clear()
        self._tell(ContentDelta(text=text))

    def end(self) -> None:
        """There is no more text."""
        held = "".join(self._held)
        self._held.clear()
        if held and not (self._num_calls and held.isspace()):
            self._tell(ContentDelta(text=held))

    def draft(self) -> Draft:
        """A call that may come."""
        return Draft(self._cursor, self._tools, self._begin, self._add)

    def _begin(self, name: str, id: str | None) -> None:
        self._held.clear()
        self._gap = True
        self._tell(CallDelta(index=self._num_calls, id=id or self._new_id(), name=name))
        self._num_calls += 1

    def _add(self, arguments: str) -> None:
        if arguments:
            self._tell(CallDelta(index=self._num_calls - 1, arguments=arguments))

    def _calls(self, mark: str) -> Reading[None]:
        """What a mark promises: one call, or several."""
        cursor = self._cursor
        if mark in self._form.bare:
            cursor.back(len(mark))
            mark = ""
        cursor.keep(mark)
        yield from cursor.run(WHITE, ignore)
        first = yield from cursor.peek()
        fits = [body for body in self._form.bodies if not isinstance(body, ObjectBody) or first in ("{", "[")]
        if not fits:
            self.text(cursor.kept())
        elif first == "[" and isinstance(fits[0], ObjectBody | PythonBody):
            yield from self._list(fits[0])
        else:
            yield from self._row(fits[0])

    def _list(self, body: Body) -> Reading[None]:
        """Calls between square brackets, parted by commas."""
        cursor = self._cursor
        cursor.take(1)
        yield from cursor.run(WHITE, ignore)
        if (yield from cursor.match(("]",))):
            self.text(cursor.kept())
            return
        while (yield from self._one(body)):
            yield from cursor.run(WHITE, ignore)
            if not (yield from cursor.match((",",))):
                yield from cursor.match(("]",))
                return
            cursor.keep(",")

    def _row(self, body: Body) -> Reading[None]:
        """A call; where the format has no mark between calls, those that follow at once as well."""
        cursor = self._cursor
        while (yield from self._one(body)):
            cursor.keep()
            yield from cursor.run(WHITE, ignore)
            following = yield from cursor.peek()
            goes_on = isinstance(body, PythonBody) and following.isidentifier()
            goes_on = goes_on or (isinstance(body, ObjectBody) and not body.strict and following == "{")
            if not goes_on:
                self.text(cursor.kept())
                return

    def _one(self, body: Body) -> Reading[bool]:
        """Read a call. Returns whether it was one, and whole."""
        cursor, draft = self._cursor, self.draft()
        try:
            yield from self._body(draft, body)
        except MalformedError:
            if draft.complete:
                return True
            if draft.verbatim:
                yield from self._go_on()
            else:
                self.text(cursor.kept())
        return draft.complete

    def _go_on(self) -> Reading[None]:
        """Tell arguments that are no JSON as they are written, up to the next mark."""
        form = self._form
        mark = yield from self._cursor.until(marks_of((*form.closes, *form.opens)), self._add)
        if mark in form.opens:
            self._cursor.back(len(mark))

    def _body(self, draft: Draft, body: Body) -> Reading[None]:
        match body:
            case ObjectBody():
                yield from object_call(self._cursor, draft, body)
            case NamedBody():
                yield from named_call(self._cursor, draft, body)
            case PairsBody():
                yield from pairs_call(self._cursor, draft, body)
            case PythonBody():
                yield from python_call(self._cursor, draft, body)
            case WholeBody():
                draft.begin(body.name, verbatim=True)
                yield from self._cursor.until(marks_of(()), self._add)
                draft.complete = True
