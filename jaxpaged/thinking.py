"""How long an answer may think. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxpaged.masks import mask_of
from jaxpaged.think_tags import ThinkTags

_KEPT = 64
"""Last tokens of an answer that may be taken back, as drafted ones are, without reading all of it again."""


class ThinkingBudget:
    """At most so many tokens of thinking, in all blocks of it together: then the tokens that end it come, one by one.

    The last block of a prompt counts where the prompt leaves it open. Tags are not counted.
    """

    follows = True

    def __init__(self, budget: int, *, tags: ThinkTags, prompt: Sequence[int], vocab: int) -> None:
        self._budget, self._tags = budget, tags
        self._only = [mask_of([token], vocab=vocab) for token in tags.end]
        self._begin = _after_prompt(prompt, tags)
        self._seen: list[int] = []
        self._thoughts = [self._begin]  # after `_seen`, and before that after each of its last tokens

    def fill(self, output: Sequence[int], mask: np.ndarray) -> None:
        forced = self._after(output).forced(self._budget, self._tags)
        if forced is not None:
            mask &= self._only[forced]

    def _after(self, output: Sequence[int]) -> _Thought:
        """Where the answer stands; of one that goes on from the last, only what is new is looked at."""
        known = len(self._seen)
        if list(output[:known]) != self._seen:
            same = (ours == theirs for ours, theirs in zip(self._seen, output, strict=False))
            known = self._take_back(next((i for i, equal in enumerate(same) if not equal), min(known, len(output))))
        for token in output[known:]:
            self._thoughts.append(self._thoughts[-1].after(token, self._tags))
        self._seen += output[known:]
        if len(self._thoughts) > 2 * _KEPT:
            del self._thoughts[:-_KEPT]
        return self._thoughts[-1]

    def _take_back(self, known: int) -> int:
        """Forget all but so many tokens; returns how many are left, none where too many are taken back."""
        count = len(self._seen) - known
        if count >= len(self._thoughts):
            self._seen, self._thoughts = [], [self._begin]
        else:
            del self._seen[known:], self._thoughts[len(self._thoughts) - count :]
        return len(self._seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thought:
    """Where a text stands: inside thinking or not, tokens of thinking so far, and the last tokens since a tag, as many
    as a tag may begin with."""

    inside: bool = False
    spent: int = 0
    tail: tuple[int, ...] = ()

    def after(self, token: int, tags: ThinkTags) -> _Thought:
        """After one token more."""
        tag = tags.end if self.inside else tags.start
        tail = (*self.tail, token)[-tags.longest :]
        spent = self.spent + self.inside
        if tail[-len(tag) :] != tag:
            return _Thought(inside=self.inside, spent=spent, tail=tail)
        return _Thought(inside=not self.inside, spent=spent - len(tag) if self.inside else spent)

    def forced(self, budget: int, tags: ThinkTags) -> int | None:
        """The place in the end tag of the token that must come next; None where any may come."""
        if not self.inside:
            return None
        begun = next(k for k in range(len(tags.end) - 1, -1, -1) if self.tail[len(self.tail) - k :] == tags.end[:k])
        return begun if self.spent - begun >= budget else None


def _after_prompt(prompt: Sequence[int], tags: ThinkTags) -> _Thought:
    """Where a prompt leaves off: blocks of thinking that it closes cost nothing."""
    started, ended = _end_of_last(tags.start, prompt), _end_of_last(tags.end, prompt)
    rest = prompt[max(started, ended) :]
    inside = started > ended
    return _Thought(inside=inside, spent=len(rest) if inside else 0, tail=tuple(rest[-tags.longest :]))


def _end_of_last(tag: tuple[int, ...], tokens: Sequence[int]) -> int:
    """Where the last occurrence of a tag ends; 0 where there is none."""
    backwards = tuple(reversed(tokens))
    place = 0
    while True:
        try:
            place = backwards.index(tag[-1], place)
        except ValueError:
            return 0
        end = len(backwards) - place
        if tuple(tokens[max(0, end - len(tag)) : end]) == tag:
            return end
        place += 1
