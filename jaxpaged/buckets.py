"""The padded shapes a step may have. [host half: no jax]

Each bucket is one compiled program, so they are few and all known at start-up; the table is total over what the
scheduler may emit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from jaxpaged.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A padded shape: `tokens` (T) and `rows` (S). T == S means that no row has more than one token (decode)."""

    tokens: int
    rows: int

    def __post_init__(self) -> None:
        assert 1 <= self.rows <= self.tokens, f"{self} has more rows than tokens"

    @property
    def is_decode(self) -> bool:
        return self.tokens == self.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTable:
    """All buckets. `decode`: T == S; `mixed`: T > S; both in ascending order of (T, S)."""

    decode: tuple[Bucket, ...]
    mixed: tuple[Bucket, ...]

    @classmethod
    def build(cls, *, max_rows: int, max_step_tokens: int, min_rows: int, min_step_tokens: int = 64) -> BucketTable:
        """Decode buckets go from `min_rows` to `max_rows`, one more of them than doubling would need, where they cost
        the least padding (see `expected_padding`); mixed ones double from `min_step_tokens` to `max_step_tokens` in T.
        Both ends are always included. A mixed bucket has `max_rows` rows, or T/2 where that is not below T: a row costs
        little beside a chunk of a prompt, a program costs seconds of compilation.

        Raises ConfigError where a full batch would leave a step no room for a prompt.
        """
        if not 1 <= min_rows <= max_rows:
            raise ConfigError(name="min_rows", value=min_rows, limit=f"it must be from 1 to max_rows={max_rows}")
        if min_step_tokens < 1:
            raise ConfigError(name="min_step_tokens", value=min_step_tokens, limit="it must be at least 1")
        if max_step_tokens <= max_rows:
            raise ConfigError(
                name="max_step_tokens",
                value=max_step_tokens,
                limit=f"it must exceed max_rows={max_rows}, so that prompts advance beside a full batch",
                fix=f"Raise it to {2 * max_rows} or lower max_rows",
            )
        sizes = _least_padding(min_rows, max_rows, count=len(_doubling(min_rows, max_rows)) + 1)
        decode = tuple(Bucket(tokens=rows, rows=rows) for rows in sizes)
        mixed = tuple(
            Bucket(tokens=tokens, rows=max_rows if max_rows < tokens else tokens // 2)
            for tokens in _doubling(max(2, min_step_tokens), max_step_tokens)
        )
        return cls(decode=decode, mixed=mixed)

    @property
    def base(self) -> BucketTable:
        """The least table that is total over the same steps: everything padded to the largest shapes."""
        return BucketTable(decode=self.decode[-1:], mixed=self.mixed[-1:])

    def only(self, buckets: Collection[Bucket]) -> BucketTable:
        """The table of those that are among `buckets`, which hold the base."""
        kept = [tuple(b for b in kind if b in buckets) for kind in (self.decode, self.mixed)]
        assert all(bucket in buckets for bucket in self.base), "without the largest shapes some steps would fit nowhere"
        return BucketTable(decode=kept[0], mixed=kept[1])

    @property
    def expected_padding(self) -> float:
        """Share of a decode step's rows that are padding, where n rows are met 1/n times as often as one.

        That is what is left of a batch whose answers' lengths spread over orders of magnitude: it has few rows for
        about as long as many.
        """
        wanted = padded = 0.0
        for rows in range(1, self.max_rows + 1):
            weight = _frequency(rows)
            wanted += weight * rows
            padded += weight * self.fit(rows, rows, decode=True).rows
        return 1 - wanted / padded

    @property
    def max_rows(self) -> int:
        return self.decode[-1].rows

    @property
    def max_step_tokens(self) -> int:
        return self.mixed[-1].tokens

    def __iter__(self) -> Iterator[Bucket]:
        yield from self.decode
        yield from self.mixed

    def __len__(self) -> int:
        return len(self.decode) + len(self.mixed)

    def fit(self, num_tokens: int, num_rows: int, *, decode: bool) -> Bucket:
        """The bucket with the least T, then the least S, that holds a step. decode: no row has more than one token."""
        assert 1 <= num_rows <= self.max_rows, f"{num_rows} rows, at most {self.max_rows}"
        assert 1 <= num_tokens <= self.max_step_tokens, f"{num_tokens} tokens, at most {self.max_step_tokens}"
        assert not decode or num_tokens <= num_rows, f"{num_tokens} tokens in {num_rows} rows are no decode step"
        for bucket in self.decode if decode else self.mixed:
            if bucket.tokens >= num_tokens and bucket.rows >= num_rows:
                return bucket
        raise AssertionError(f"no bucket for {num_tokens} tokens in {num_rows} rows")


def _frequency(rows: int) -> float:
    return 1 / rows


def _least_padding(low: int, high: int, *, count: int) -> list[int]:
    """At most `count` sizes from `low` to `high`, both included, that pad numbers of rows from 1 to `high` the least.

    Exact, over multiples of 8 and the powers of two below: the best way to end with a size is the best of all ways to
    end with the one before it.
    """
    choices = sorted({low, high, *(n for n in (1, 2, 4) if low < n < high), *range(8 * (low // 8 + 1), high, 8)})
    weights = [_frequency(rows) for rows in range(1, high + 1)]
    below = [sum(weights[:size]) for size in choices]  # how often a step fits into each size
    best = {size: (math.inf, [size]) for size in choices} | {low: (low * below[0], [low])}
    for _ in range(count - 1):
        longer = dict(best)
        for i, size in enumerate(choices):
            for j in range(i):
                cost, sizes = best[choices[j]]
                cost += size * (below[i] - below[j])
                if cost < longer[size][0] - 1e-12:
                    longer[size] = (cost, [*sizes, size])
        best = longer
    return best[high][1]


def _doubling(low: int, high: int) -> list[int]:
    sizes = []
    while low < high:
        sizes.append(low)
        low *= 2
    return [*sizes, high]
