"""Few combinations of options in which every two values of two options meet."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

Pair = frozenset[tuple[str, int]]


def all_pairs(options: Mapping[str, Sequence[Any]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Combinations, a value for each name, that cover all pairs of values; greedily few, the same for a seed."""
    rng = random.Random(seed)
    missing = pairs_of({name: range(len(values)) for name, values in options.items()})
    found: list[dict[str, Any]] = []
    while missing:
        chosen = dict(min(missing, key=sorted))
        for name in rng.sample(list(options), len(options)):
            if name not in chosen:
                choices = rng.sample(range(len(options[name])), len(options[name]))
                chosen[name] = max(choices, key=lambda i, name=name: _met(chosen, name, i, missing))
        missing -= {frozenset(pair) for pair in itertools.combinations(chosen.items(), 2)}
        found.append({name: options[name][chosen[name]] for name in options})
    return found


def pairs_of(options: Mapping[str, Sequence[int]]) -> set[Pair]:
    """Every pair of values, by their places, of two options."""
    return {
        frozenset(((one, i), (other, j)))
        for one, other in itertools.combinations(options, 2)
        for i in options[one]
        for j in options[other]
    }


def _met(chosen: Mapping[str, int], name: str, place: int, missing: set[Pair]) -> int:
    """Missing pairs that a value would meet among those chosen."""
    return sum(frozenset(((name, place), other)) in missing for other in chosen.items())
