"""BucketTable: few shapes, and one for every step."""

from __future__ import annotations

from itertools import combinations

import pytest

from jaxpaged.buckets import Bucket, BucketTable
from jaxpaged.errors import ConfigError


def shapes(table: BucketTable) -> list[tuple[int, int]]:
    return [(bucket.tokens, bucket.rows) for bucket in table]


def test_the_table_of_a_laptop() -> None:
    table = BucketTable.build(max_rows=32, max_step_tokens=512, min_rows=8)
    decode = [(8, 8), (16, 16), (24, 24), (32, 32)]
    mixed = [(64, 32), (128, 32), (256, 32), (512, 32)]
    assert shapes(table) == decode + mixed
    assert len(table) == 8


def test_both_ends_are_included() -> None:
    table = BucketTable.build(max_rows=20, max_step_tokens=300, min_rows=8)
    assert shapes(table) == [(8, 8), (16, 16), (20, 20), (64, 20), (128, 20), (256, 20), (300, 20)]


def test_rows_never_reach_the_tokens_of_a_mixed_bucket() -> None:
    table = BucketTable.build(max_rows=100, max_step_tokens=256, min_rows=4)
    assert [(b.tokens, b.rows) for b in table.mixed] == [(64, 32), (128, 100), (256, 100)]
    assert table.fit(40, 30, decode=False) == Bucket(tokens=64, rows=32)
    assert table.fit(40, 33, decode=False) == Bucket(tokens=128, rows=100)
    tiny = BucketTable.build(max_rows=1, max_step_tokens=2, min_rows=1)
    assert shapes(tiny) == [(1, 1), (2, 1)]


def test_fit_takes_the_least_tokens() -> None:
    table = BucketTable.build(max_rows=32, max_step_tokens=512, min_rows=8)
    assert table.fit(1, 1, decode=True) == Bucket(tokens=8, rows=8)
    assert table.fit(9, 9, decode=True) == Bucket(tokens=16, rows=16)
    assert table.fit(32, 32, decode=True) == Bucket(tokens=32, rows=32)
    assert table.fit(2, 1, decode=False) == Bucket(tokens=64, rows=32)
    assert table.fit(65, 8, decode=False) == Bucket(tokens=128, rows=32)
    assert table.fit(512, 32, decode=False) == Bucket(tokens=512, rows=32)


@pytest.mark.parametrize(
    ("rows", "tokens", "min_rows", "min_tokens"), [(1, 2, 1, 64), (7, 8, 3, 4), (20, 130, 8, 64), (33, 40, 4, 16)]
)
def test_fit_is_total(rows: int, tokens: int, min_rows: int, min_tokens: int) -> None:
    table = BucketTable.build(max_rows=rows, max_step_tokens=tokens, min_rows=min_rows, min_step_tokens=min_tokens)
    assert len(set(table)) == len(table)
    for num_rows in range(1, rows + 1):
        assert table.fit(num_rows, num_rows, decode=True).is_decode
        for num_tokens in range(num_rows, tokens + 1):
            bucket = table.fit(num_tokens, num_rows, decode=False)
            assert bucket.tokens >= num_tokens
            assert num_rows <= bucket.rows < bucket.tokens
    for num_tokens, num_rows in ((tokens + 1, 1), (rows + 1, rows + 1), (0, 0)):
        with pytest.raises(AssertionError):
            table.fit(num_tokens, num_rows, decode=False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_rows": 64, "max_step_tokens": 64, "min_rows": 4}, "max_step_tokens is 64.*max_rows=64"),
        ({"max_rows": 4, "max_step_tokens": 64, "min_rows": 8}, "min_rows is 8.*max_rows=4"),
        ({"max_rows": 4, "max_step_tokens": 64, "min_rows": 0}, "min_rows is 0"),
        ({"max_rows": 4, "max_step_tokens": 64, "min_rows": 4, "min_step_tokens": 0}, "min_step_tokens is 0"),
    ],
)
def test_tables_that_cannot_be(options: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        BucketTable.build(**options)


@pytest.mark.parametrize(("low", "high"), [(1, 32), (4, 32), (8, 64), (3, 7)])
def test_decode_buckets_pad_the_least_of_all_choices(low: int, high: int) -> None:
    table = BucketTable.build(max_rows=high, max_step_tokens=4 * high, min_rows=low)
    choices = [n for n in range(low + 1, high) if n % 8 == 0 or n in (1, 2, 4)]
    most = len(table.decode)
    best = min(
        BucketTable(
            decode=tuple(Bucket(tokens=n, rows=n) for n in (low, *between, high)), mixed=table.mixed
        ).expected_padding
        for size in range(most - 1)
        for between in combinations(choices, size)
    )
    assert table.expected_padding == pytest.approx(best)


def test_expected_padding_by_hand() -> None:
    decode = (Bucket(tokens=2, rows=2), Bucket(tokens=4, rows=4))
    table = BucketTable(decode=decode, mixed=(Bucket(tokens=8, rows=4),))
    # 1, 2, 3 and 4 rows are met 1, 1/2, 1/3 and 1/4 times: 4 of 2 + 1 + 4/3 + 1 rows are wanted
    assert table.expected_padding == pytest.approx(1 - 4 / (2 + 1 + 4 / 3 + 1))
