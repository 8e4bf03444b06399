"""Token buckets, limits of a key, and the measured rate that Retry-After comes from. All times are given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpaged_server.access.keys import KeyLimits
from jaxpaged_server.admission.drain_rate import DrainRate
from jaxpaged_server.admission.rates import KeyRates, TokenBucket


def test_a_bucket_holds_one_minute_and_fills_steadily() -> None:
    bucket = TokenBucket(60, now=100.0)
    assert bucket.wait_s(60, 100.0) == 0.0
    bucket.take(60, 100.0)
    assert bucket.level(100.0) == 0.0
    assert bucket.wait_s(1, 100.0) == 1.0
    assert bucket.wait_s(5, 102.5) == 2.5
    assert bucket.level(1000.0) == 60.0


def test_a_bucket_may_be_drawn_below_zero_and_is_then_waited_for() -> None:
    bucket = TokenBucket(600, now=0.0)
    bucket.take(600, 0.0)
    bucket.take(300, 0.0)
    assert bucket.level(0.0) == -300.0
    assert bucket.wait_s(100, 0.0) == 40.0
    assert bucket.wait_s(100, 40.0) == 0.0


def test_more_than_a_bucket_holds_needs_a_full_one() -> None:
    bucket = TokenBucket(60, now=0.0)
    assert bucket.wait_s(1000, 0.0) == 0.0
    bucket.take(1000, 0.0)
    assert bucket.level(0.0) == -940.0
    assert bucket.wait_s(1000, 0.0) == 1000.0
    assert bucket.wait_s(1000, 1000.0) == 0.0


def test_giving_back_never_overfills() -> None:
    bucket = TokenBucket(60, now=0.0)
    bucket.take(10, 0.0)
    bucket.give_back(10, 5.0)
    assert bucket.level(5.0) == 60.0


def test_a_clock_that_stands_or_goes_back_fills_nothing() -> None:
    bucket = TokenBucket(60, now=10.0)
    bucket.take(60, 10.0)
    assert bucket.level(10.0) == bucket.level(3.0) == 0.0
    assert bucket.level(11.0) == 1.0


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 40)), max_size=50), st.sampled_from([30.0, 60.0, 600.0]))
def test_no_minute_brings_more_than_a_bucket_and_a_minute(asks: list[tuple[float, int]], per_minute: float) -> None:
    bucket, now, taken = TokenBucket(per_minute, now=0.0), 0.0, list[tuple[float, int]]()
    for gap, amount in asks:
        now += gap
        if bucket.wait_s(amount, now) == 0 and amount <= per_minute:
            bucket.take(amount, now)
            taken.append((now, amount))
    for start, _ in taken:
        assert sum(amount for at, amount in taken if start <= at <= start + 60) <= 2 * per_minute * (1 + 1e-9)


LIMITS = KeyLimits(max_concurrency=2, requests_per_minute=6, tokens_per_minute=600)


def test_a_key_without_limits_is_never_refused() -> None:
    rates = KeyRates(KeyLimits(), now=0.0)
    for _ in range(100):
        assert rates.refusal("a", 1, 10**9, 0.0) is None
        rates.take(1, 10**9, 0.0)
    assert rates.num_in_flight == 100


def test_concurrency_counts_each_choice() -> None:
    rates = KeyRates(LIMITS, now=0.0)
    rates.take(1, 1, 0.0)
    refusal = rates.refusal("a", 2, 1, 0.0)
    assert refusal is not None
    reason, error = refusal
    assert reason == "concurrency"
    assert str(error) == "requests in flight of key 'a' is 3: max_concurrency is 2. Wait for an answer first"
    assert error.retry_after_s == 1
    rates.leave(0, 0.0)
    assert rates.refusal("a", 2, 1, 0.0) is None
    refusal = rates.refusal("a", 3, 1, 0.0)
    assert refusal is not None
    assert refusal[1].retry_after_s is None, "waiting would not help"


def test_requests_a_minute_count_http_requests() -> None:
    rates = KeyRates(LIMITS, now=0.0)
    for _ in range(6):
        assert rates.refusal("a", 2, 1, 0.0) is None
        rates.take(2, 1, 0.0)
        rates.leave(0, 0.0)
        rates.leave(0, 0.0)
    refusal = rates.refusal("a", 1, 1, 0.0)
    assert refusal is not None
    assert refusal[0] == "requests_per_minute"
    assert refusal[1].retry_after_s == 10
    assert rates.refusal("a", 1, 1, 9.9) is not None
    assert rates.refusal("a", 1, 1, 10.0) is None


def test_tokens_a_minute_count_prompts_at_once_and_answers_as_they_come() -> None:
    rates = KeyRates(LIMITS, now=0.0)
    rates.take(1, 500, 0.0)
    rates.charge(150, 0.0)
    refusal = rates.refusal("a", 1, 100, 0.0)
    assert refusal is not None
    assert refusal[0] == "tokens_per_minute"
    assert refusal[1].retry_after_s == 15
    assert str(refusal[1]) == ("rate of key 'a' is 100: tokens_per_minute is 600, and it is used up. Try again in 15 s")
    assert rates.refusal("a", 1, 100, 15.0) is None


def test_a_prompt_that_was_never_computed_is_given_back_but_its_request_is_not() -> None:
    rates = KeyRates(KeyLimits(requests_per_minute=1, tokens_per_minute=600), now=0.0)
    rates.take(1, 600, 0.0)
    rates.leave(600, 0.0)
    assert rates.num_in_flight == 0
    refusal = rates.refusal("a", 1, 600, 0.0)
    assert refusal is not None
    assert refusal[0] == "requests_per_minute"
    assert rates.refusal("a", 1, 600, 60.0) is None


def test_a_refusal_takes_nothing() -> None:
    rates = KeyRates(LIMITS, now=0.0)
    for _ in range(50):
        rates.refusal("a", 3, 1000, 0.0)
    assert rates.refusal("a", 2, 600, 0.0) is None


def test_new_limits_keep_what_was_used() -> None:
    rates = KeyRates(KeyLimits(tokens_per_minute=600), now=0.0)
    rates.take(1, 600, 0.0)
    rates.refit(KeyLimits(tokens_per_minute=60), 0.0)
    refusal = rates.refusal("a", 1, 1, 0.0)
    assert refusal is not None
    assert refusal[1].retry_after_s == 1
    rates.refit(KeyLimits(tokens_per_minute=600), 30.0)
    assert rates.refusal("a", 1, 300, 30.0) is None, "half a minute has filled half of it"
    refusal = rates.refusal("a", 1, 301, 30.0)
    assert refusal is not None
    rates.take(1, 150, 30.0)
    rates.refit(KeyLimits(tokens_per_minute=60), 30.0)
    assert rates.refusal("a", 1, 15, 30.0) is None, "a quarter was left, and is"
    assert rates.refusal("a", 1, 16, 30.0) is not None
    rates.refit(KeyLimits(), 30.0)
    assert rates.refusal("a", 1, 10**6, 0.0) is None
    rates.refit(KeyLimits(max_concurrency=1), 0.0)
    assert rates.refusal("a", 1, 1, 0.0) is not None, "the one in flight still counts"


def busy(requests_per_s: float, seconds: int, *, tokens: int = 100) -> DrainRate:
    """After so many seconds in which something waited."""
    rate = DrainRate(requests_per_s=1.0, tokens_per_s=1.0)
    rate.start(0.0)
    for number in range(1, int(seconds * requests_per_s) + 1):
        rate.left(tokens, number / requests_per_s)
    return rate


def test_the_rate_starts_as_a_guess_and_becomes_what_was_seen() -> None:
    assert DrainRate(requests_per_s=3.0, tokens_per_s=50.0).requests_per_s(0.0) == 3.0
    assert busy(10.0, 10).requests_per_s(10.0) == pytest.approx(9.3, abs=0.1)
    assert busy(10.0, 300).requests_per_s(300.0) == pytest.approx(10.0, rel=0.02)
    assert busy(10.0, 300).tokens_per_s(300.0) == pytest.approx(1000.0, rel=0.02)


def test_time_in_which_nothing_left_counts_also_where_the_queue_then_empties() -> None:
    rate = busy(10.0, 300)
    rate.stop(330.0)
    assert rate.requests_per_s(330.0) == pytest.approx(3.7, abs=0.1)


def test_the_rate_follows_a_change_within_the_window() -> None:
    rate = busy(10.0, 300)
    for number in range(1, 61):
        rate.left(100, 300.0 + number)
    # 60 s at 1 a second after a long time at 10, in a window of 30 s: 1 + 9 exp(-2)
    assert rate.requests_per_s(360.0) == pytest.approx(2.22, abs=0.05)


def test_an_idle_queue_changes_nothing_but_a_stalled_one_does() -> None:
    rate = busy(10.0, 300)
    rate.stop(300.0)
    assert rate.requests_per_s(4000.0) == pytest.approx(10.0, rel=0.02)
    rate.left(100, 4000.0)
    assert rate.requests_per_s(4000.0) == pytest.approx(10.0, rel=0.02), "nothing waited: it says nothing of the rate"
    rate.start(4000.0)
    rate.start(4010.0)
    assert rate.requests_per_s(4060.0) == pytest.approx(1.35, abs=0.05)


@pytest.mark.parametrize(
    ("requests", "tokens", "wait_s"),
    [(0, 0, 1), (1, 100, 1), (50, 100, 5), (51, 100, 6), (1, 20_000, 20), (100, 5_000, 10), (10**6, 0, 60)],
)
def test_retry_after_is_whole_seconds_from_1_to_60(requests: int, tokens: int, wait_s: int) -> None:
    rate = DrainRate(requests_per_s=10.0, tokens_per_s=1000.0)
    assert rate.retry_after_s(requests, tokens, 0.0) == wait_s


def test_a_queue_that_never_moved_gives_the_longest_retry_after() -> None:
    rate = DrainRate(requests_per_s=1.0, tokens_per_s=1.0)
    rate.start(0.0)
    assert rate.retry_after_s(1, 1, 1e6) == 60
