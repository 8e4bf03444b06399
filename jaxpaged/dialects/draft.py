"""One call while it is read: told from the moment on that it is certainly one. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Callable

from jaxpaged.dialects.cursor import Cursor, MalformedError
from jaxpaged.dialects.tools import Tools


class Draft:
    """What readers of calls tell. begin: (name, id) to `begin`, pieces of the arguments to `add`.

    begun: it is a call, and what was read of it is text no more. verbatim: its arguments are told as they are written.
    complete: all of the arguments has been told.
    """

    def __init__(
        self, cursor: Cursor, tools: Tools, begin: Callable[[str, str | None], None], add: Callable[[str], None]
    ) -> None:
        self.tools = tools
        self.name = ""
        self.begun = False
        self.complete = False
        self.verbatim = False
        self.add = add
        self._begin = begin
        self._cursor = cursor

    def begin(self, name: str, *, id: str | None = None, verbatim: bool = False) -> None:
        """It is a call of this function. Raises MalformedError for what cannot be a name."""
        assert not self.begun
        if not name or len(name) > 256 or not name.isprintable():
            raise MalformedError
        self._cursor.kept()
        self.name, self.begun, self.verbatim = name, True, verbatim
        self._begin(name, id)
