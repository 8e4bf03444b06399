"""What is asked of speculation, and which guesses get a row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from drafters import AnyPrice, LinearCosts, OracleDrafter, eager_speculator
from host_model import make_request

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.request import PENDING, Request
from jaxpaged.speculation.acceptance import Acceptance, Trust, drawn_class, matched_class
from jaxpaged.speculation.config import SpeculationConfig, speculation_config
from jaxpaged.speculation.costs import StepCosts
from jaxpaged.speculation.speculator import Speculator
from jaxpaged.tiny import TINY_DRAFT

NGRAM = SpeculationConfig(method="ngram", num_speculative_tokens=4, prompt_lookup_min=2, prompt_lookup_max=3)
SUFFIX = SpeculationConfig(method="suffix", num_speculative_tokens=4)


def repeating(name: str = "a", *, max_tokens: int = 50, salt: str = "") -> Request:
    return make_request(name, [1, 2, 3, 4, 5, 6] * 4, max_tokens=max_tokens, salt=salt)


def rows(count: int) -> Any:
    """What a step of `count` requests computes: no padding."""
    return lambda drafted: count + drafted


def test_the_options_are_those_of_vllm() -> None:
    config = speculation_config({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4})
    assert config is not None
    assert (config.prompt_lookup_min, config.prompt_lookup_max) == (4, 4)
    assert speculation_config('{"method": "ngram", "num_speculative_tokens": 3}') == SpeculationConfig(
        method="ngram", num_speculative_tokens=3, prompt_lookup_min=5, prompt_lookup_max=5
    )
    suffix = speculation_config({"method": "suffix"})
    assert suffix is not None
    assert suffix.num_speculative_tokens == suffix.suffix_decoding_max_tree_depth == 24
    draft = speculation_config({"model": "org/small", "num_speculative_tokens": 3})
    assert draft == SpeculationConfig(method="draft_model", num_speculative_tokens=3, model="org/small")
    assert draft is not None
    assert draft.asked() == {"method": "draft_model", "num_speculative_tokens": 3, "model": "org/small"}
    assert speculation_config(None) is speculation_config({}) is speculation_config("null") is None


@pytest.mark.parametrize(
    ("value", "name", "says"),
    [
        ({"method": "eagle"}, "speculative_config.method", "ngram, suffix or draft_model"),
        ({"num_speculative_tokens": 3}, "speculative_config.method", "ngram, suffix or draft_model"),
        ({"method": "draft_model", "num_speculative_tokens": 3}, "speculative_config.model", "needs it"),
        ({"method": "draft_model", "model": "", "num_speculative_tokens": 3}, "speculative_config.model", "needs it"),
        ({"model": "x"}, "speculative_config.num_speculative_tokens", "needs it"),
        ({"model": 3, "num_speculative_tokens": 3}, "speculative_config.model", "small model"),
        ({"method": "ngram", "model": "x"}, "speculative_config.model", "no such key"),
        ({"method": "ngram"}, "speculative_config.num_speculative_tokens", "needs it"),
        ({"method": "ngram", "num_speculative_tokens": 0}, "speculative_config.num_speculative_tokens", "from 1 to"),
        ({"method": "ngram", "num_speculative_tokens": True}, "speculative_config.num_speculative_tokens", "whole"),
        ({"method": "ngram", "num_speculative_token": 3}, "speculative_config.num_speculative_token", "Did you mean"),
        ({"method": "suffix", "prompt_lookup_max": 3}, "speculative_config.prompt_lookup_max", "no such key"),
        (
            {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 4, "prompt_lookup_max": 3},
            "speculative_config.prompt_lookup_min",
            "may not exceed",
        ),
        ({"method": "suffix", "suffix_decoding_max_spec_factor": -1}, "suffix_decoding_max_spec_factor", "a number"),
        ({"method": "suffix", "suffix_decoding_min_token_prob": 2}, "suffix_decoding_min_token_prob", "from 0 to 1"),
        ("{", "speculative_config", "not JSON"),
        ([3], "speculative_config", "JSON object"),
    ],
)
def test_what_cannot_be_is_refused_by_name(value: object, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        speculation_config(value)
    assert caught.value.name.endswith(name)
    with pytest.raises(ConfigError):
        EngineConfig(model="org/other", speculative_config=value)  # pyright: ignore[reportArgumentType]


def test_an_engine_config_holds_it_in_full_and_is_the_same_when_made_again() -> None:
    asked = EngineConfig(speculative_config={"method": "ngram", "num_speculative_tokens": 3})
    assert asked.speculative_config["prompt_lookup_min"] == 5
    assert EngineConfig(speculative_config=asked.speculative_config) == asked
    assert asked.speculation == SpeculationConfig(method="ngram", num_speculative_tokens=3)
    assert EngineConfig().speculation is None
    own = EngineConfig(speculative_config={"method": "draft_model", "num_speculative_tokens": 3})
    assert own.speculative_config["model"] == str(TINY_DRAFT)
    assert (TINY_DRAFT / "model.safetensors").exists()
    with pytest.raises(ConfigError, match="needs it: a small model"):
        replace(own, model="org/other", speculative_config={"method": "draft_model", "num_speculative_tokens": 3})


def test_guesses_that_cost_nothing_are_all_made() -> None:
    speculator = Speculator(NGRAM, costs=AnyPrice())
    assert speculator.choose([repeating()], 10, rows(1)) == [(1, 2, 3, 4)]
    assert speculator.choose([repeating("b")], 2, rows(1)) == [(1, 2)]
    assert speculator.choose([repeating("c")], 0, rows(1)) == [()]


def test_no_guess_goes_past_the_last_token() -> None:
    speculator = Speculator(NGRAM, costs=AnyPrice())
    assert speculator.choose([repeating(max_tokens=3)], 10, rows(1)) == [(1, 2)]
    assert speculator.choose([repeating("b", max_tokens=1)], 10, rows(1)) == [()]


def test_rows_that_cost_as_much_as_a_step_are_not_taken_and_free_ones_are() -> None:
    dear, cheap = LinearCosts(0.0, 1.0, 0.0), LinearCosts(1.0, 0.0, 0.1)
    assert Speculator(NGRAM, costs=dear).choose([repeating()], 10, rows(1)) == [()]
    assert Speculator(NGRAM, costs=cheap).choose([repeating()], 10, rows(1)) == [(1, 2, 3, 4)]
    padded = LinearCosts(0.0, 1.0, 0.0)  # rows that pad a bucket of four are paid for anyway
    assert Speculator(NGRAM, costs=padded).choose([repeating()], 10, lambda n: max(4, 1 + n)) == [(1, 2, 3)]


def test_a_wait_that_costs_more_than_guesses_bring_is_not_waited() -> None:
    request = repeating()
    request.tokens.append(PENDING)
    assert Speculator(NGRAM, costs=LinearCosts(1.0, 0.0, 0.1)).worth_waiting([request], 10, rows(1))
    assert not Speculator(NGRAM, costs=LinearCosts(1.0, 0.0, 9.0)).worth_waiting([request], 10, rows(1))
    assert not Speculator(NGRAM, costs=LinearCosts(1.0, 0.0, 0.1)).worth_waiting([request], 0, rows(1))
    plain = make_request("b", range(7), max_tokens=9)
    plain.tokens.append(PENDING)
    assert not Speculator(NGRAM, costs=LinearCosts(1.0, 0.0, 0.1)).worth_waiting([plain], 10, rows(1))


def test_nothing_is_looked_up_where_nothing_could_pay() -> None:
    def make(request: Request) -> OracleDrafter:
        raise AssertionError("a drafter was made")

    speculator = Speculator(NGRAM, costs=LinearCosts(1.0, 1.0, 5.0), make=make)
    assert speculator.choose([repeating()], 10, rows(1)) == [()]
    assert not speculator.worth_waiting([repeating()], 10, rows(1))


def test_the_likelier_guesses_get_the_rows() -> None:
    good, bad = repeating("good"), repeating("bad")
    speculator = Speculator(NGRAM, costs=AnyPrice())
    rng = random.Random(2)
    for _ in range(30):  # every guess of one comes true, half of the other's
        speculator.choose([good, bad], 8, rows(2))
        good.tokens.append(good.tokens[-6])
        bad.tokens.append(rng.randrange(2))
    chosen = speculator.choose([good, bad], 4, rows(2))
    assert len(chosen[0]) == 4
    assert not chosen[1]


def test_guesses_stop_where_they_never_come_true_and_begin_again_where_they_do() -> None:
    rng = random.Random(1)
    speculator = Speculator(NGRAM, costs=LinearCosts(1.0, 0.05, 0.1))
    request = make_request("a", [1, 2, 3] * 3, max_tokens=2000)

    def drafted(steps: int, token: Any) -> int:
        count = 0
        for _ in range(steps):
            count += len(speculator.choose([request], 8, rows(1))[0])
            request.tokens.append(token())
        return count

    def any_of_ten() -> int:
        return rng.randrange(10)

    def as_before() -> int:
        return request.tokens[-3]

    assert drafted(10, as_before) >= 30
    drafted(800, any_of_ten)
    assert drafted(100, any_of_ten) < 50  # of 400 that there could be
    drafted(20, as_before)
    assert drafted(50, as_before) >= 150


def test_a_long_prompt_is_taken_in_over_several_steps() -> None:
    speculator = Speculator(NGRAM, costs=AnyPrice())
    request = make_request("a", [i % 7 for i in range(1500)], max_tokens=50)
    steps = 0
    while not speculator.choose([request], 4, rows(1))[0]:
        steps += 1
    assert steps == 2


def test_tokens_that_were_taken_back_are_forgotten() -> None:
    speculator = Speculator(NGRAM, costs=AnyPrice())
    request = repeating()
    request.tokens += [7, 7, 7, 7]
    assert speculator.choose([request], 4, rows(1)) == [(7, 7, 7, 7)]
    del request.tokens[-4:]
    assert speculator.choose([request], 4, rows(1)) == [(1, 2, 3, 4)]


@pytest.mark.parametrize("salt", ["", "tenant"])
def test_answers_serve_others_but_not_those_with_a_salt(salt: str) -> None:
    speculator = Speculator(SUFFIX, costs=AnyPrice())
    first = make_request("a", [0], max_tokens=50, salt=salt)
    first.tokens += [11, 12, 13, 14, 15]
    speculator.ended(first)
    for _ in range(3):
        speculator.choose([], 0, rows(0))
    second = make_request("b", [5, 11, 12, 13], max_tokens=50)
    assert speculator.choose([second], 4, rows(1)) == [(14, 15) if not salt else ()]
    third = make_request("c", [5, 11, 12, 13], max_tokens=50, salt="another")
    assert speculator.choose([third], 4, rows(1)) == [()]


def test_a_drafter_that_guesses_too_much_gets_what_was_asked() -> None:
    request = make_request("a", [1, 2], max_tokens=3)

    def make(request: Request) -> OracleDrafter:
        return OracleDrafter(request, [3, 4, 5], length=50, share=1.0, vocab=9, rng=random.Random(0))

    speculator = eager_speculator(make, most=5)
    assert speculator.choose([request], 9, rows(1)) == [(3, 4)]


def test_counts_tell_where_guesses_came_true() -> None:
    speculator = Speculator(NGRAM)
    for accepted in ([True, True, False], [False], [True]):
        for place, one in enumerate(accepted):
            speculator.verified(place, accepted=one)
    counts = speculator.counts
    assert (counts.drafts, counts.draft_tokens, counts.accepted_tokens) == (3, 5, 3)
    assert counts.accepted_at == [2, 1, 0, 0]


def test_rates_follow_what_comes_true_by_the_length_of_the_match() -> None:
    acceptance = Acceptance()

    def rate(match: int) -> float:
        return acceptance.rate(matched_class(match))

    for _ in range(200):
        acceptance.note(matched_class(2), hit=False)
        acceptance.note(matched_class(20), hit=True)
    assert rate(2) < 0.02
    assert rate(20) > 0.98
    assert rate(24) == rate(17)
    assert rate(3) == 0.55  # no evidence
    assert rate(1000) == rate(25) == 0.9


def test_rates_of_what_a_model_draws_go_by_how_likely_it_holds_it() -> None:
    acceptance = Acceptance()
    first = [acceptance.rate(drawn_class(i / 10 + 0.05)) for i in range(10)]
    assert first == sorted(first)
    assert 0 < first[0] < 0.2
    assert 0.8 < first[-1] < 1
    assert drawn_class(0.0) == drawn_class(0.09)
    assert drawn_class(1.0) == drawn_class(0.93) == drawn_class(1.0000001)
    for _ in range(200):
        acceptance.note(drawn_class(0.97), hit=False)
    assert acceptance.rate(drawn_class(0.92)) < 0.05
    assert acceptance.rate(drawn_class(0.85)) == first[8]
    assert acceptance.rate(matched_class(24)) == 0.85  # matches are of another kind


def test_a_request_whose_guesses_fail_is_trusted_less() -> None:
    trust, other = Trust(), Trust()
    assert trust.likelihood(0.5) == 0.5
    for _ in range(20):
        trust.note(0.5, hit=False)
        other.note(0.5, hit=True)
    assert trust.likelihood(0.5) < 0.2
    assert 0.5 < other.likelihood(0.5) <= 0.98
    for _ in range(40):
        trust.note(0.5, hit=True)
    assert trust.likelihood(0.5) > 0.5


def fit(steps: Sequence[tuple[int, bool]], seconds: Any, *, noise: float = 0.0) -> StepCosts:
    costs, rng = StepCosts(), random.Random(5)
    for number in range(400):
        count, waited = steps[number % len(steps)]
        costs.note(count, seconds(count, waited) * (1 + noise * rng.uniform(-1, 1)), waited=waited)
    return costs


def test_costs_are_what_steps_took() -> None:
    def seconds(count: int, waited: bool) -> float:
        return 0.002 + 0.0001 * count + 0.0005 * waited

    for noise in (0.0, 0.2):
        costs = fit([(1, False), (4, True), (9, False), (2, True), (16, True), (7, False)], seconds, noise=noise)
        for count, waited in ((1, False), (12, True), (30, False)):
            assert costs.of(count, waited=waited) == pytest.approx(seconds(count, waited), rel=0.05 + noise / 2)


def test_costs_that_were_never_seen_are_held_for_a_share_of_those_that_were() -> None:
    costs = fit([(4, False)], lambda count, waited: 0.01)
    assert costs.of(4, waited=False) == pytest.approx(0.01, rel=0.01)
    assert 0.0105 < costs.of(4, waited=True) < 0.0125
    assert 0.0105 < costs.of(8, waited=False) < 0.0115


def test_noise_never_makes_rows_or_waiting_free_of_charge_to_below_nothing() -> None:
    costs = fit([(1, True), (8, False)], lambda count, waited: 0.02 - 0.001 * count - 0.005 * waited)
    assert costs.of(8, waited=False) >= costs.of(1, waited=False) > 0
    assert costs.of(8, waited=True) >= costs.of(8, waited=False)


def test_a_step_that_was_held_up_moves_little() -> None:
    costs = fit([(4, False)], lambda count, waited: 0.01)
    costs.note(4, 10.0, waited=False)
    for _ in range(8):
        costs.note(4, 0.01, waited=False)
    assert costs.of(4, waited=False) < 0.012


def test_steps_that_a_coarse_clock_does_not_see_take_something() -> None:
    costs = fit([(4, False), (2, True)], lambda count, waited: 0.0)
    assert 0 < costs.of(4, waited=False) < 1e-6
    assert costs.of(4, waited=True) / costs.of(4, waited=False) >= 1
