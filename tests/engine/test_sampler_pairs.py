"""Every two values of two sampling parameters, through packer, masks and sampler, against the oracle."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from all_pairs import all_pairs, pairs_of
from sampler_oracle import Asked, allowed, choose, logprobs, uniform

from jaxpaged.batch import Packer, StepLayout, unpack
from jaxpaged.buckets import Bucket
from jaxpaged.constraints import constraints_of
from jaxpaged.mask_filler import MaskFiller
from jaxpaged.masks import mask_words
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import Request
from jaxpaged.sampler import Sampled, SamplingRows, sample, uniforms
from jaxpaged.sampling_params import MAX_BIASES, SamplingParams
from jaxpaged.think_tags import ThinkTags
from jaxpaged.wide_logprobs import WideLogprobs, pick_logits, slices_of

ROWS, LONGEST = 16, 32
LIKELY = 12  # tokens from 0 on, of which all is made: likelier than all others
STOP = frozenset({8, 9})
THINK = ThinkTags(start=(5,), end=(6, 7))
WORDS: Mapping[str, Sequence[int]] = {"one": (1,), "two three": (2, 3), "two two": (2, 2), "four": (4,)}
WITHIN: Mapping[str, Sequence[int]] = {"one": (10,), "two three": (11, 3), "two two": (11, 2), "four": (4,)}
OPTIONS: Mapping[str, Sequence[Any]] = {
    "temperature": (0.0, 0.7, 1.5),
    "top_k": (0, 1, 5, 290),
    "top_p": (1.0, 0.9, 0.3),
    "min_p": (0.0, 0.1),
    "seed": (1, 2**32 - 1),
    "presence_penalty": (0.0, 0.8),
    "frequency_penalty": (0.0, -0.5),
    "repetition_penalty": (1.0, 1.3, 0.7),
    "logit_bias": (None, {1: 3.0, 2: -100.0, 8: 1.5}, {200: 4.0}),
    "allowed_token_ids": (None, (0, 2, 3, 8, 9), tuple(range(3, 290))),
    "bad_words": ((), ("one", "four"), ("two three", "two two")),
    "min_tokens": (0, 4),
    "thinking_token_budget": (None, 0, 2),
    "logprobs": (None, 0, 5, 40, -1),
}

jitted: Callable[..., Sampled] = jax.jit(sample)
picked: Callable[..., tuple[jax.Array, jax.Array]] = jax.jit(pick_logits)


def encode(text: str) -> Sequence[int]:
    return WITHIN[text[1:]] if text.startswith(" ") else WORDS[text]


def bad_words(words: Sequence[str]) -> list[Sequence[int]]:
    """As vLLM tokenises them, written out."""
    return [ids for word in words for ids in dict.fromkeys((tuple(WORDS[word]), tuple(WITHIN[word])))]


def made(rng: np.random.Generator, place: int, options: Mapping[str, Any], vocab: int) -> Request:
    """A request somewhere in its answer."""
    params = SamplingParams(max_tokens=None, **options)
    prompt = rng.integers(0, LIKELY, rng.integers(1, 9)).tolist()
    while prompt.count(5) > 1:
        prompt.remove(5)
    output = rng.integers(0, LIKELY, rng.integers(0, 20)).tolist()
    if rng.random() < 0.4:
        output += [[2], [11], [2, 2], [5], [5, 0, 1], [5, 0, 6]][rng.integers(6)]
    request = Request(
        id=str(place),
        prompt=tuple(prompt),
        params=params,
        seed=params.seed or 0,
        max_tokens=LONGEST,
        stop_ids=STOP,
        tokens=[*prompt, *output],
        seat=place,
        constraints=constraints_of(params, prompt=prompt, stop_ids=STOP, vocab=vocab, encode=encode, tags=THINK),
    )
    request.block_ids, request.table_starts = [array("i", [1])], [0]
    return request


def drawn(requests: Sequence[Request], logits: np.ndarray) -> tuple[Sampled, WideLogprobs]:
    """What the engine's own way from a plan to tokens makes of these logits."""
    layout = StepLayout(bucket=Bucket(tokens=ROWS, rows=ROWS), table_width=1, num_groups=1)
    rows = tuple(RowPlan(request, len(request.tokens) - 1, 1, True) for request in requests)
    vocab = logits.shape[1]
    packer = Packer(num_seats=ROWS, table_width=1, groups=[0], max_model_len=LONGEST, vocab_size=vocab)
    plan = StepPlan(rows=rows, bucket=layout.bucket)
    inputs = packer.pack(plan, layout)
    masks, _ = MaskFiller(vocab=vocab).of(plan)
    fields = unpack(inputs.ints, layout, lambda bits: bits.view(np.float32))
    asked = {name: getattr(fields, name) for name in SamplingRows._fields if name != "positions"}
    unused = (
        np.full((ROWS, LONGEST), -1, np.int32),
        np.full((ROWS, MAX_BIASES), -1, np.int32),
        np.zeros((ROWS, MAX_BIASES), np.float32),
        np.full((ROWS, mask_words(vocab)), -1, np.int32),
    )
    given = (inputs.history, inputs.bias_ids, inputs.bias_values, masks)
    options = [nothing if one is None else one for one, nothing in zip(given, unused, strict=True)]
    sampled = jitted(logits, SamplingRows(**asked, positions=fields.kv_lens), *options)
    wide = tuple(picked(logits, places) for places in slices_of(inputs.wide))
    return sampled, WideLogprobs(rows=inputs.wide, slices=wide)


def test_every_pair_of_values_is_met() -> None:
    rows = all_pairs(OPTIONS)
    met = {
        frozenset(((one, OPTIONS[one].index(row[one])), (other, OPTIONS[other].index(row[other]))))
        for row in rows
        for one in row
        for other in row
        if one < other
    }
    assert met == pairs_of({name: range(len(values)) for name, values in OPTIONS.items()})
    assert len(rows) < 50  # 20 at least, of the two longest


def test_uniforms_are_threefrys() -> None:
    seeds, positions = [0, 1, 7, 2**31, 2**32 - 1], [0, 1, 5000, 2**20, 3]
    bits = np.array(seeds, np.uint32).view(np.int32)
    ours = np.asarray(uniforms(bits, np.array(positions, np.int32)))  # pyright: ignore[reportArgumentType]
    assert ours.tolist() == [uniform(seed, position) for seed, position in zip(seeds, positions, strict=True)]


@pytest.mark.parametrize("vocab", [300, 4000])
def test_pairs_of_options_equal_the_oracle(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    combinations = all_pairs(OPTIONS)
    total = unsure = random = forced = dead = 0
    for _ in range(12):
        for first in range(0, len(combinations), ROWS):
            batch = combinations[first : first + ROWS]
            logits = (rng.standard_normal((ROWS, vocab)) * rng.choice([0.5, 1.0, 2.0], (ROWS, 1))).astype(np.float32)
            logits[:, :LIKELY] += 2
            requests = [made(rng, place, options, vocab) for place, options in enumerate(batch)]
            sampled, wide = drawn(requests, logits)
            tokens = np.asarray(sampled.tokens)
            for i, request in enumerate(requests):
                asked = Asked(
                    params=request.params,
                    prompt=request.prompt,
                    seed=request.seed,
                    stop_ids=STOP,
                    bad_words=bad_words(request.params.bad_words or ()),
                    think=(THINK.start, THINK.end),
                )
                output = request.tokens[len(request.prompt) :]
                expected = choose(logits[i], output, asked)
                total += 1
                unsure += not expected.sure
                random += request.params.temperature > 0
                forced += allowed(vocab, output, asked).sum() == 1
                dead += expected.token < 0
                if expected.sure:
                    assert tokens[i] == expected.token, (batch[i], output)
                if expected.token >= 0 and request.params.wants_logprobs:
                    check_logprobs(logits[i], int(tokens[i]), i, request.params, sampled, wide)
    assert unsure < 0.03 * total
    assert min(random, total - random) > total / 5
    assert forced > 20
    assert dead > 0  # a tag that allowed_token_ids leaves out


def check_logprobs(
    logits: np.ndarray, token: int, row: int, params: SamplingParams, sampled: Sampled, wide: WideLogprobs
) -> None:
    """They are of the unmodified logits, whatever the options."""
    own = logprobs(logits)
    order = np.argsort(-logits, kind="stable")
    rank = int(np.flatnonzero(order == token)[0]) + 1
    if params.num_likeliest is not None:
        assert np.asarray(sampled.rank)[row] == rank
        np.testing.assert_allclose(np.asarray(sampled.logprob)[row], own[token], atol=1e-5)
        count = params.num_likeliest
        assert np.asarray(sampled.top_ids)[row, :count].tolist() == order[:count].tolist()
        return
    found = wide.of(row, token, params)
    count = len(logits) if params.logprobs == -1 else params.logprobs
    assert set(found) == {token, *order[:count].tolist()}
    assert found[token].rank == rank
    for other, told in found.items():
        assert abs(told.logprob - own[other]) < 1e-5
        assert told.rank == int(np.flatnonzero(order == other)[0]) + 1
