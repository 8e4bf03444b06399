"""How soon a key learns that it is refused: at once, unless others need the server and it asks on and on. [no jax]

A refusal costs the front end's one thread a tenth of a millisecond. Clients that do not wait as long as they are told
ask thousands of times a second, and everybody's tokens wait behind their refusals. Told a little later, they ask less
often: each of them waits for its answer before it asks again.
"""

from __future__ import annotations

PER_S = 200.0
"""Refusals of one key that are told in a second, while others need the server."""
BURST = 50.0
"""Those of a key that was not refused for a while, told at once."""
MOST_S = 1.0
"""The longest wait: who is refused holds a connection meanwhile."""


class RefusalPace:
    """Of one key. Seconds on any clock that does not go back (the generic cell rate algorithm, ITU-T I.371)."""

    __slots__ = ("_due_s",)

    def __init__(self) -> None:
        self._due_s = float("-inf")  # when the next one is due, were they told evenly

    def delay_s(self, now: float) -> float:
        """Count a refusal; seconds to hold it back."""
        due_s = max(self._due_s, now - BURST / PER_S)
        self._due_s = min(due_s, now + MOST_S) + 1.0 / PER_S
        return min(max(0.0, due_s - now), MOST_S)


class LastSeen:
    """Which keys were let in last: enough to say whether another one than a given key was, within some time."""

    __slots__ = ("_latest", "_other")

    def __init__(self) -> None:
        self._latest = self._other = ("", float("-inf"))  # of two different keys

    def note(self, name: str, now: float) -> None:
        """A request of this key was taken."""
        if name != self._latest[0]:
            self._other = self._latest
        self._latest = (name, now)

    def other_than(self, name: str) -> float:
        """When a request of another key was taken last."""
        return self._latest[1] if self._latest[0] != name else self._other[1]
