"""The sampler against a float64 oracle: kept sets, draws, penalties, logprobs, and that nobody pays for others."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_oracle import Asked, draw, edited
from sampling_options import neutral
from scipy import stats

from jaxpaged.sampler import Sampled, SamplingRows, largest, sample, uniforms
from jaxpaged.sampling_params import SamplingParams

SIZES = [7, 300, 32_000]
LENGTH, BIASES = 24, 4

jitted: Callable[..., Sampled] = jax.jit(sample)


def run(
    logits: np.ndarray,
    rows: SamplingRows,
    *,
    history: np.ndarray | None = None,
    biases: list[dict[int, float]] | None = None,
    allowed: np.ndarray | None = None,
    pad_to: int = 16,
) -> Sampled:
    """Sample rows in batches of `pad_to`, the last one filled up with greedy rows: few shapes to compile."""
    num_rows = len(logits)
    if num_rows > pad_to:
        starts = range(0, num_rows, pad_to)
        assert allowed is None, "masks come with one batch"
        parts = [(logits[i : i + pad_to], jax.tree.map(lambda x, i=i: x[i : i + pad_to], rows)) for i in starts]
        done = [run(*part, biases=biases and biases[:pad_to], pad_to=pad_to) for part in parts]
        return jax.tree.map(lambda *x: np.concatenate(x), *done)
    ids = np.full((pad_to, BIASES), -1, np.int32)
    values = np.full((pad_to, BIASES), 50, np.float32)  # of no token: must move nothing
    for row, entries in enumerate(biases or []):
        ids[row, : len(entries)] = list(entries)
        values[row, : len(entries)] = list(entries.values())
    tokens = np.full((pad_to, LENGTH), -1, np.int32)
    if history is not None:
        tokens[:num_rows] = history
    x = np.zeros((pad_to, logits.shape[1]), np.float32)
    x[:num_rows] = logits
    fill = neutral(pad_to - num_rows)
    padded = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rows, fill) if num_rows < pad_to else rows
    masks = packed(np.ones(logits.shape, bool) if allowed is None else allowed)
    masks = np.concatenate([masks, np.full((pad_to - len(masks), masks.shape[1]), -1, np.int32)])
    return jax.tree.map(lambda a: np.asarray(a)[:num_rows], jitted(x, padded, tokens, ids, values, masks))


def packed(allowed: np.ndarray) -> np.ndarray:
    """bool[S, V] as masks, i32[S, ceil(V / 32)]; bits past the vocabulary are set, as in a row without a mask."""
    full = np.pad(allowed, ((0, 0), (0, -allowed.shape[1] % 32)), constant_values=True)
    return np.packbits(full, axis=1, bitorder="little").view(np.int32)


def random_logits(rng: np.random.Generator, num_rows: int, vocab: int) -> np.ndarray:
    """Rows from flat to peaked, every third with many equal values."""
    scale = rng.choice([0.05, 1.0, 3.0, 8.0], num_rows)[:, None]
    logits = (rng.standard_normal((num_rows, vocab)) * scale).astype(np.float32)
    logits[::3] = np.round(logits[::3] * 4) / 4 + np.float32(0)  # no -0.0, which lax.top_k puts below 0.0
    return logits


@pytest.mark.parametrize("vocab", SIZES)
def test_draws_equal_the_oracle(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    num_rows, unsure, total = 16, 0, 0
    widths = [0, 0, 1, 2, 5, 40, 255, 256, 257, 280, 1000, vocab - 1, vocab]
    for _ in range(12 if vocab > 1000 else 40):
        logits = random_logits(rng, num_rows, vocab)
        options = {
            "temperature": rng.choice([0.3, 0.7, 1.0, 1.7, 20.0], num_rows).astype(np.float32),
            "top_k": rng.choice(widths, num_rows),
            "top_p": rng.choice([1.0, 1.0, 0.05, 0.5, 0.9, 0.99, 0.9999], num_rows).astype(np.float32),
            "min_p": rng.choice([0.0, 0.0, 0.0, 0.001, 0.1, 0.9, 1.0], num_rows).astype(np.float32),
        }
        seeds, positions = rng.integers(-(2**31), 2**31, num_rows), rng.integers(0, 5000, num_rows)
        rows = neutral(num_rows, **options, seeds=seeds, positions=positions)
        u = np.asarray(uniforms(rows.seeds, rows.positions), np.float64)
        tokens = run(logits, rows).tokens
        for i in range(num_rows):
            chosen = {name: values[i].item() for name, values in options.items()}
            expected = draw(logits[i], u[i], **chosen)
            total += 1
            unsure += not expected.sure
            if expected.sure:
                assert expected.kept[tokens[i]], (chosen, tokens[i])
                assert tokens[i] == expected.token, (chosen, expected.kept.sum())
    assert unsure < total * (0.12 if vocab > 1000 else 0.03)  # flat rows of 32,000 tokens: many boundaries


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"top_k": 5, "top_p": 0.9, "temperature": 1.5},
    ],
)
@pytest.mark.parametrize("vocab", [7, 300])
def test_frequencies_follow_the_distribution(vocab: int, options: dict[str, float]) -> None:
    draws = 4096
    logits = np.full(vocab, -9.0, np.float32)
    logits[[0, 1, 2, 3, 4, vocab - 2, vocab - 1]] = [1.0, 0.5, 0.0, -0.4, -1.0, 0.8, 0.2]
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    rows = neutral(draws, **full, seeds=42, positions=np.arange(draws))
    tokens = run(np.tile(logits, (draws, 1)), rows, pad_to=512).tokens
    kept = draw(logits, 0.5, **full).kept  # pyright: ignore[reportArgumentType]
    p = np.where(kept, np.exp(logits.astype(np.float64) / full["temperature"]), 0)
    common = p / p.sum() > 0.01
    seen = np.bincount(tokens, minlength=vocab)
    assert not seen[~kept].any()
    counts = [*seen[common], seen[~common].sum()]
    shares = np.array([*(p / p.sum())[common], (p / p.sum())[~common].sum()])
    present = shares > 1e-9
    assert stats.chisquare(np.array(counts)[present], draws * shares[present]).pvalue > 1e-3


def test_wide_draws_cover_every_group_of_tokens() -> None:
    draws, vocab = 4096, 300
    rows = neutral(draws, temperature=1.0, seeds=3, positions=np.arange(draws))
    tokens = run(np.zeros((draws, vocab), np.float32), rows, pad_to=512).tokens
    observed = np.bincount(tokens // 10, minlength=30)
    assert stats.chisquare(observed).pvalue > 1e-3
    assert len(observed) == 30


@pytest.mark.parametrize("vocab", SIZES)
def test_a_token_depends_on_its_row_alone(vocab: int) -> None:
    rng = np.random.default_rng(vocab + 1)
    num_rows = 8
    logits = random_logits(rng, num_rows, vocab)
    options = {
        "temperature": np.array([0, 1, 1, 0.5, 2, 1, 1, 1]),
        "top_k": np.array([0, 0, 4, 256, 290, 0, 0, 2]),
        "top_p": np.array([1, 1, 1, 0.9, 0.99, 0.9999, 0.3, 1]),
        "min_p": np.array([0, 0, 0, 0, 0, 0, 0.01, 0]),
        "presence": np.array([0, 0, 0, 1, 0, 0, 0, 0]),
        "seeds": rng.integers(0, 1000, num_rows),
        "positions": rng.integers(0, 1000, num_rows),
    }
    together = run(logits, neutral(num_rows, **options)).tokens
    order = rng.permutation(num_rows)
    shuffled = run(logits[order], neutral(num_rows, **{name: values[order] for name, values in options.items()}))
    assert shuffled.tokens.tolist() == together[order].tolist()
    pads = (1, 16) if vocab == 300 else (16,)
    for i in range(num_rows):
        row = neutral(1, **{name: values[i : i + 1] for name, values in options.items()})
        for pad_to in pads:
            assert run(logits[i : i + 1], row, pad_to=pad_to).tokens.tolist() == [together[i]]


def test_draws_are_keyed_by_seed_and_position() -> None:
    seeds = jnp.asarray([1, 1, 2, -1, -1], jnp.int32)
    positions = jnp.asarray([5, 6, 5, 5, 5], jnp.int32)
    u = np.asarray(uniforms(seeds, positions))
    assert u[3] == u[4]
    assert len(set(u.tolist())) == 4
    assert u.min() >= 0
    assert u.max() < 1
    key = jax.random.fold_in(jax.random.key(2**32 - 1, impl="threefry2x32"), 5)
    assert u[3] == jax.random.uniform(key)


@pytest.mark.parametrize("vocab", [7, 256, 300, 511, 512, 1000])
def test_largest_is_argmax_and_takes_the_lowest_of_equal_ids(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    x = rng.integers(-3, 3, (64, vocab)).astype(np.float32)  # ties everywhere
    x[0] = -np.inf
    x[1, -1] = 9
    x[2, :] = 0
    assert np.asarray(jax.jit(largest)(x)).tolist() == x.argmax(1).tolist()


def test_penalties_equal_the_definition() -> None:
    rng = np.random.default_rng(5)
    num_rows, vocab, changed = 16, 300, 0
    for _ in range(20):
        logits = (rng.standard_normal((num_rows, vocab)) * 0.7).astype(np.float32)
        likely = np.argsort(-logits, axis=1)[:, :8]
        history = np.full((num_rows, LENGTH), -1, np.int32)
        lengths, prompts = rng.integers(1, LENGTH + 1, num_rows), rng.integers(1, LENGTH, num_rows)
        for i in range(num_rows):
            history[i, : lengths[i]] = rng.choice(likely[i], lengths[i])
        options = {
            "presence": rng.choice([0, 0.5, -1.0], num_rows).astype(np.float32),
            "frequency": rng.choice([0, 0.3, -0.2], num_rows).astype(np.float32),
            "repetition": rng.choice([1, 1.3, 0.8], num_rows).astype(np.float32),
        }
        tokens = run(logits, neutral(num_rows, **options, prompt_lens=prompts), history=history).tokens
        for i in range(num_rows):
            penalties = {f"{name}_penalty": values[i].item() for name, values in options.items()}
            text = history[i, : lengths[i]].tolist()
            asked = Asked(params=SamplingParams(**penalties), prompt=text[: prompts[i]], seed=0)
            x = edited(logits[i], text[prompts[i] :], asked)
            assert tokens[i] == x.argmax()
            changed += tokens[i] != logits[i].argmax()
    assert changed > 50


def test_a_token_that_fills_the_prompt_counts_as_often_as_it_was_drawn() -> None:
    history = np.full((4, 5000), 3, np.int32)  # all prompt but for the last three
    logits = np.zeros((4, 7), np.float32)
    logits[:, 3], logits[:, 5] = [3.01, 2.99, 3.01, 2.99], 1.5
    options = {"frequency": [0.5, 0.5, 0, 0], "repetition": [1, 1, 2, 2], "prompt_lens": 4997}
    bare = neutral(4, **options)
    ids, values = np.full((4, BIASES), -1, np.int32), np.zeros((4, BIASES), np.float32)
    assert jitted(logits, bare, history, ids, values, packed(logits > -9)).tokens.tolist() == [3, 5, 3, 5]
    ids[:, 0], values[:, 0] = 3, 0.1  # a token with a bias is penalised apart
    ids[:, 1], values[:, 1] = 5, [0.0, 0.0, 0.1, 0.1]
    assert jitted(logits, bare, history, ids, values, packed(logits > -9)).tokens.tolist() == [3, 3, 5, 5]


def test_padding_of_the_history_is_no_token() -> None:
    logits = np.zeros((1, 7), np.float32)
    logits[0, 6] = 1  # where index -1 would wrap to
    assert run(logits, neutral(1, presence=2.0)).tokens.tolist() == [6]


def test_biases_move_and_ban() -> None:
    logits = np.tile(np.arange(7, dtype=np.float32), (4, 1))
    biases = [{}, {6: -np.inf}, {2: 100.0, 6: -np.inf}, {6: -np.inf, 5: -1.5}]
    sampled = run(logits, neutral(4, num_logprobs=0), biases=biases)
    assert sampled.tokens.tolist() == [6, 5, 2, 4]
    assert sampled.finite.all()
    assert sampled.rank.tolist() == [1, 2, 5, 3]  # of the unmodified logits


@pytest.mark.parametrize("options", [{}, {"top_p": 0.999}, {"top_k": 290}, {"top_k": 3}, {"min_p": 1e-4}])
def test_a_banned_token_is_never_drawn(options: dict[str, float]) -> None:
    num_rows, vocab = 512, 300
    logits = np.zeros((num_rows, vocab), np.float32)
    logits[:, 299] = 3
    rows = neutral(num_rows, temperature=1.0, **options)
    assert 299 in run(logits, rows, pad_to=512).tokens
    assert 299 not in run(logits, rows, biases=[{299: -np.inf}] * num_rows, pad_to=512).tokens


@pytest.mark.parametrize("vocab", SIZES)
def test_logprobs_and_ranks(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = random_logits(rng, 6, vocab)
    rows = neutral(6, temperature=np.array([0, 1, 1, 1, 1, 1]), num_logprobs=np.array([0, -1, 3, 20, 0, 5]))
    sampled = run(logits, rows)
    x = logits.astype(np.float64)
    logprobs = x - x.max(1, keepdims=True)
    logprobs -= np.log(np.exp(logprobs).sum(1, keepdims=True))
    order = np.argsort(-x, axis=1, kind="stable")
    width = min(20, vocab)
    assert sampled.top_ids.tolist() == order[:, :width].tolist()
    np.testing.assert_allclose(sampled.top_logprobs, np.take_along_axis(logprobs, order[:, :width], 1), atol=1e-5)
    for i, token in enumerate(sampled.tokens):
        np.testing.assert_allclose(sampled.logprob[i], logprobs[i, token], atol=1e-5)
        assert order[i, sampled.rank[i] - 1] == token


def test_logprobs_are_zeros_when_nobody_asks() -> None:
    sampled = run(np.ones((2, 7), np.float32), neutral(2))
    assert not sampled.logprob.any()
    assert sampled.top_logprobs.shape == sampled.top_ids.shape == (2, 7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 280, "top_p": 0.9}])
def test_a_row_that_is_not_finite_is_flagged_and_alone(bad: float, options: dict[str, float]) -> None:
    logits = random_logits(np.random.default_rng(0), 4, 300)
    good = run(logits, neutral(4, **options, num_logprobs=2))
    broken = logits.copy()
    broken[2, 123] = bad
    sampled = run(broken, neutral(4, **options, num_logprobs=2))
    assert good.finite.tolist() == [True] * 4
    assert sampled.finite.tolist() == [True, True, False, True]
    others = [0, 1, 3]
    for before, after in zip(good, sampled, strict=True):
        np.testing.assert_array_equal(before[others], after[others])
    assert 0 <= sampled.tokens[2] < 300


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e-3])
def test_a_tiny_temperature_is_nearly_greedy(temperature: float) -> None:
    logits = random_logits(np.random.default_rng(1), 1, 300)[[0] * 8] * 100
    logits[:, 17] = logits.max() + 5
    assert set(run(logits, neutral(8, temperature=temperature)).tokens.tolist()) == {17}
    assert set(run(logits, neutral(8, temperature=temperature, top_p=0.9)).tokens.tolist()) == {17}


@pytest.mark.parametrize("vocab", [300, 32_000])
def test_a_tiny_top_p_keeps_the_likeliest(vocab: int) -> None:
    logits = np.zeros((8, vocab), np.float32)
    logits[:, 5] = 0.1
    for top_k in (0, 270):
        rows = neutral(8, temperature=1.0, top_p=1e-40, top_k=top_k)
        assert set(run(logits, rows).tokens.tolist()) == {5}


@pytest.mark.parametrize("vocab", [7, 300, 32_000])
def test_a_mask_takes_tokens_out_as_minus_infinity_does(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    num_rows = 12
    options = {
        "temperature": np.array([0, 1, 1, 0.5] * 3),
        "top_k": np.array([0, 0, 3, 270] * 3),
        "top_p": np.array([1, 1, 0.9] * 4),
        "presence": np.array([0, 0.5] * 6),
    }
    for density in (0.02, 0.5, 0.98):
        logits = random_logits(rng, num_rows, vocab)
        allowed = rng.random((num_rows, vocab)) < density
        allowed[np.arange(num_rows), rng.integers(0, vocab, num_rows)] = True
        allowed[5] = True
        history = rng.integers(0, vocab, (num_rows, LENGTH)).astype(np.int32)
        rows = neutral(num_rows, **options, num_logprobs=0, seeds=rng.integers(0, 99, num_rows))
        masked = run(logits, rows, history=history, allowed=allowed)
        assert allowed[np.arange(num_rows), masked.tokens].all()
        assert masked.tokens.tolist() == run(np.where(allowed, logits, -np.inf), rows, history=history).tokens.tolist()
        assert masked.finite.all()
        plain = logits.astype(np.float64)
        own = plain[np.arange(num_rows), masked.tokens] - np.log(np.exp(plain - plain.max(1, keepdims=True)).sum(1))
        np.testing.assert_allclose(masked.logprob, own - plain.max(1), atol=2e-5)  # of the unmasked logits


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 280, "top_p": 0.9}])
def test_a_row_that_may_draw_nothing_says_so_and_is_alone(options: dict[str, float]) -> None:
    logits = random_logits(np.random.default_rng(3), 4, 300)
    allowed = np.ones((4, 300), bool)
    others = run(logits, neutral(4, **options), allowed=allowed)
    allowed[2] = False
    sampled = run(logits, neutral(4, **options, num_logprobs=1), allowed=allowed)
    assert sampled.tokens.tolist() == [*others.tokens[:2], -1, others.tokens[3]]
    assert sampled.finite.all()
