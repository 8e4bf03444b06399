"""What happened to the prefix cache since it was last asked: a `PrefixListener` that writes the wire's events."""

from __future__ import annotations

from collections.abc import Sequence

from jaxpaged_server.engine_process.wire import Cleared, Removed, Stored


class CacheJournal:
    """Events in order; blocks of one group that follow each other are one event. Emptied by `take`."""

    def __init__(self) -> None:
        self._events: list[Stored | Removed | Cleared] = []
        self._open: dict[int, Stored | Removed] = {}  # by group: its latest event, which may still grow

    def stored(self, group: int, key: bytes, parent: bytes | None, tokens: Sequence[int], salt: str) -> None:
        """See `PrefixListener`."""
        last = self._open.get(group)
        if isinstance(last, Stored) and last.keys[-1] == parent and last.salt == salt:
            last.keys.append(key)
            last.tokens.extend(tokens)
            return
        self._add(group, Stored(group=group, parent=parent, keys=[key], tokens=list(tokens), salt=salt))

    def removed(self, group: int, key: bytes) -> None:
        """See `PrefixListener`."""
        last = self._open.get(group)
        if isinstance(last, Removed):
            last.keys.append(key)
            return
        self._add(group, Removed(group=group, keys=[key]))

    def cleared(self) -> None:
        """See `PrefixListener`."""
        self._events = [Cleared()]  # what came before it matters no more
        self._open = {}

    def take(self) -> list[Stored | Removed | Cleared]:
        """The events since the last call."""
        events, self._events, self._open = self._events, [], {}
        return events

    def _add(self, group: int, event: Stored | Removed) -> None:
        self._events.append(event)
        self._open[group] = event
