"""A suffix automaton: every substring of the sequences it has read, in memory linear in them. [host half: no jax]"""

from __future__ import annotations

from array import array

ROOT = 0
_NOBODY = -1


class SuffixAutomaton:
    """Reads sequences token by token, in amortised constant time; a state stands for substrings that always end at the
    same places. Of these it remembers one, the latest that it happened to see.

    A state's first transition lies in arrays, further ones, which few states have, in dicts.
    """

    def __init__(self) -> None:
        self.length = array("i", [0])
        """Of each state, its longest substring."""
        self.link = array("i", [_NOBODY])
        """Of each state, the state of its longest suffix that ends at more places."""
        self.place = array("i", [0])
        """Of each state, a place in all that was read right after its substrings."""
        self._token = array("i", [_NOBODY])
        self._next = array("i", [_NOBODY])
        self._more: dict[int, dict[int, int]] = {}
        self._last = ROOT
        self._read = 0

    def __len__(self) -> int:
        """Tokens read so far."""
        return self._read

    def begin(self) -> None:
        """What is read from now on is another sequence: no substring spans both. It takes a place itself."""
        self._last = ROOT
        self._read += 1

    def read(self, token: int) -> tuple[int, int]:
        """Take in the next token. Returns the length of the longest suffix that was there before, of this or an earlier
        sequence, and a place after it; (0, 0) where there is none."""
        self._read += 1
        last, there = self._last, self.step(self._last, token)
        if there != _NOBODY:  # only an earlier sequence can have gone on so
            state = there if self.length[there] == self.length[last] + 1 else self._split(last, token, there)
            self._last = known = state
        else:
            self._last = self._add(self.length[last] + 1, self._read)
            self.link[self._last] = known = self._connect(last, token)
        found = (self.length[known], self.place[known]) if known != ROOT else (0, 0)
        self.place[known] = self._read
        return found

    def step(self, state: int, token: int) -> int:
        """The state of a state's substrings with one token more; -1 where they were never read."""
        if self._token[state] == token:
            return self._next[state]
        more = self._more.get(state)
        return _NOBODY if more is None else more.get(token, _NOBODY)

    def follow(self, state: int, length: int, token: int) -> tuple[int, int]:
        """How much of somebody else's sequence was read here: the state and length of its longest such suffix after
        one token more. What was read meanwhile may have split the state."""
        while state != ROOT and length <= self.length[self.link[state]]:
            state = self.link[state]
        while (there := self.step(state, token)) == _NOBODY:
            if state == ROOT:
                return ROOT, 0
            state = self.link[state]
            length = self.length[state]
        return there, length + 1

    def _connect(self, last: int, token: int) -> int:
        """Lead the suffixes of the sequence without its new token to its newest state; returns that state's link."""
        newest, state, there = self._last, last, _NOBODY
        while state != _NOBODY and (there := self.step(state, token)) == _NOBODY:
            self._lead(state, token, newest)
            state = self.link[state]
        if state == _NOBODY:
            return ROOT
        return there if self.length[there] == self.length[state] + 1 else self._split(state, token, there)

    def _split(self, state: int, token: int, there: int) -> int:
        """Give the suffixes that come from `state`, the shorter ones of state `there`, a state of their own."""
        clone = self._add(self.length[state] + 1, self.place[there])
        self.link[clone] = self.link[there]
        self._token[clone], self._next[clone] = self._token[there], self._next[there]
        if there in self._more:
            self._more[clone] = dict(self._more[there])
        while state != _NOBODY and self.step(state, token) == there:
            self._lead(state, token, clone)
            state = self.link[state]
        self.link[there] = clone
        return clone

    def _add(self, length: int, place: int) -> int:
        self.length.append(length)
        self.link.append(_NOBODY)
        self.place.append(place)
        self._token.append(_NOBODY)
        self._next.append(_NOBODY)
        return len(self.length) - 1

    def _lead(self, state: int, token: int, to: int) -> None:
        if self._token[state] in (_NOBODY, token):
            self._token[state], self._next[state] = token, to
        else:
            self._more.setdefault(state, {})[token] = to
