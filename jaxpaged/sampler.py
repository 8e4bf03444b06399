"""From logits to one token per row: masks, penalties, filters, the draw, logprobs. [device half]

Owns the choice of tokens. Every option is data of its row, so one compiled function serves every mix; what no row of
the step asks for is skipped by `lax.cond`. The vocabulary is never sorted. A row's token depends on nothing but the
row: draws are keyed by (seed, position), and every choice of algorithm is made per row.

The filters come to one threshold per row, `cut`: kept are the tokens with logit >= cut, so equal logits are kept or
dropped together. Where the kept set provably lies within the _NARROW likeliest tokens, it is found and drawn from
there, likeliest first; elsewhere thresholds are found by bisection and the draw goes by token id. Masses are sums of
float32, so probabilities are exact to about 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpaged.sampling_params import MAX_LOGPROBS
from pallas_kernels.top_k import top_k

_GROUP = 256  # tokens reduced together; the group is then looked into alone
_NARROW = 256  # likeliest tokens that are looked at before the whole vocabulary is
_MIN_TEMPERATURE = 1e-6  # below it, differences of logits that float32 can hold leave float32's range
_SIGN = 0x80000000
# counts a token in a prompt: so little that in a sum with ones, in whatever order, it moves no whole number
_IN_PROMPT = 2.0**-30


class SamplingRows(NamedTuple):
    """What each row asks for. All of shape [S]; neutral values in brackets."""

    temperature: Array  # f32, 0 is greedy [0]
    top_k: Array  # i32 [0: all]
    top_p: Array  # f32 [1]
    min_p: Array  # f32 [0]
    presence: Array  # f32 [0]
    frequency: Array  # f32 [0]
    repetition: Array  # f32 [1]
    seeds: Array  # i32, the bits of a uint32
    positions: Array  # i32, index of the sampled token in its row
    prompt_lens: Array  # i32
    num_logprobs: Array  # i32, -1 for none


class Sampled(NamedTuple):
    """The outcome of a step. `finite`: the row's logits held no NaN and no infinity; else its token means nothing.

    logprob, rank, top_ids and top_logprobs tell of the unmodified logits; zeros where no row of the step asked. Equal
    logits rank by token id, so the first is 1 and rank r stands at r - 1 in top_ids.
    """

    tokens: Array  # i32[S], -1 where the row's mask allows none
    finite: Array  # bool[S]
    logprob: Array  # f32[S], of the token
    rank: Array  # i32[S], of the token, 1 is the likeliest
    top_ids: Array  # i32[S, min(20, V)]
    top_logprobs: Array  # f32[S, min(20, V)]


class _Candidates(NamedTuple):
    """What the narrow path found, per row."""

    tokens: Array  # i32[S], valid where done
    done: Array  # bool[S]: the kept set lies within the likeliest _NARROW
    kth: Array  # f32[S], the top_k-th largest logit where top_k <= _NARROW, else -inf


def sample(
    logits: Array,
    rows: SamplingRows,
    history: Array,
    bias_ids: Array,
    bias_values: Array,
    masks: Array,
    last_tokens: Array | None = None,
) -> Sampled:
    """Choose a token for each row of logits f32[S, V].

    history: i32[S, any], prompt and then output tokens, padded with -1 (read if a row has a penalty).
    last_tokens: i32[S], the tokens at `rows.positions - 1` where the history lacks them; None: it lacks none.
    bias_ids: i32[S, B], a token once a row, padded with -1; bias_values: f32[S, B], added to its logit, -inf bans it.
    masks: i32[S, ceil(V / 32)], bit t % 32 of word t // 32 says that token t may be drawn; all ones: every token.
    Order: masks, biases, repetition, frequency and presence, temperature, min_p, top_k, top_p over what these leave.
    """
    vocab = logits.shape[1]
    random = rows.temperature > 0
    is_masked = jnp.any(masks != -1, axis=1)  # [S]
    masked = jnp.any(is_masked)
    biased = jnp.any(bias_ids >= 0)
    repeats = jnp.any(rows.repetition != 1)
    counts = jnp.any((rows.presence != 0) | (rows.frequency != 0))

    def choose_edited() -> Array:
        def edit() -> Array:
            whole = history if last_tokens is None else _with_last(history, rows.positions, last_tokens)
            unmasked = lax.cond(
                repeats | counts,
                lambda: _penalise_biased(logits, rows, whole, bias_ids, bias_values),
                lambda: logits.at[_columns(bias_ids, vocab)].add(bias_values, mode="drop"),
            )
            return _mask(unmasked, masks, masked)  # last: what is -inf stays so, whatever is added or divided

        edited = lax.cond(masked | biased | repeats | counts, edit, lambda: logits)
        drawn = lax.cond(jnp.any(random), lambda: _draw(edited, rows), lambda: jnp.zeros(random.shape, jnp.int32))
        chosen = jnp.where(random, drawn, largest(edited))
        nothing = is_masked & (jnp.take_along_axis(edited, chosen[:, None], axis=1)[:, 0] == -jnp.inf)
        return jnp.where(nothing, -1, chosen)

    plain = ~(masked | biased | repeats | counts | jnp.any(random))
    tokens = lax.cond(plain, lambda: largest(logits), choose_edited)
    logprob, rank, top_ids, top_logprobs = lax.cond(
        jnp.any(rows.num_logprobs >= 0),
        lambda: logprobs_of(logits, jnp.maximum(tokens, 0)),
        lambda: _no_logprobs(logits),
    )
    return Sampled(
        tokens=tokens,
        finite=jnp.all(jnp.isfinite(logits), axis=1),
        logprob=logprob,
        rank=rank,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )


def largest(x: Array) -> Array:
    """argmax over the last axis of x f32[S, V]: i32[S], the lowest id of equal ones. Exact, in two levels."""
    vocab = x.shape[1]
    if vocab <= _GROUP:
        return jnp.argmax(x, axis=1).astype(jnp.int32)
    group = jnp.argmax(jnp.max(_grouped(x, -jnp.inf), axis=2), axis=1).astype(jnp.int32)  # [S]
    # the last group is looked at with tokens of the one before it: had they its maximum, that one would have won
    first = jnp.minimum(group * _GROUP, vocab - _GROUP)
    window = jax.vmap(lambda row, at: lax.dynamic_slice(row, (at,), (_GROUP,)))(x, first)  # [S, _GROUP]
    return first + jnp.argmax(window, axis=1).astype(jnp.int32)


def uniforms(seeds: Array, positions: Array) -> Array:
    """The draw of each row: f32[S] in [0, 1), of its seed (i32[S], the bits of a uint32) and position alone."""

    def one(seed: Array, position: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), position)
        return jax.random.uniform(key, (), jnp.float32)

    return jax.vmap(one)(lax.bitcast_convert_type(seeds, jnp.uint32), positions)


def _grouped(x: Array, filler: float) -> Array:
    """x [S, V] -> [S, groups, _GROUP], the last group filled up."""
    num_rows, vocab = x.shape
    num_groups = -(-vocab // _GROUP)
    padded = jnp.pad(x, ((0, 0), (0, num_groups * _GROUP - vocab)), constant_values=filler)
    return padded.reshape(num_rows, num_groups, _GROUP)


def _total(weights: Array) -> Array:
    """Sums of the rows of [S, V], in two levels for accuracy: [S]."""
    return jnp.sum(jnp.sum(_grouped(weights, 0.0), axis=2), axis=1)


def _columns(ids: Array, vocab: int) -> tuple[Array, Array]:
    """Where tokens i32[S, any] stand in [S, V], as an index; padding, -1, is past the end: dropped or filled."""
    return jnp.arange(ids.shape[0])[:, None], jnp.where(ids < 0, vocab, ids)


def _with_last(history: Array, positions: Array, last_tokens: Array) -> Array:
    num_rows, length = history.shape
    last = jnp.where(positions > 0, positions - 1, length)  # past the end: dropped
    return history.at[jnp.arange(num_rows), last].set(last_tokens, mode="drop")


def _mask(logits: Array, masks: Array, masked: Array) -> Array:
    """Logits with -inf for the tokens that masks do not allow, if `masked`: in a loop of one turn or of none, which is
    in place (see `_penalise_biased`)."""

    def bar(_: Array, x: Array) -> Array:
        x, words = lax.optimization_barrier((x, masks))  # or the masks are unpacked before the loop
        bits = lax.shift_right_logical(words[:, :, None], jnp.arange(32, dtype=jnp.int32)[None, None, :]) & 1
        allowed = bits.reshape(x.shape[0], -1)[:, : x.shape[1]] != 0  # [S, words, 32] -> [S, V]
        return jnp.where(allowed, x, -jnp.inf)

    return lax.fori_loop(0, masked.astype(jnp.int32), bar, logits)


def _penalise_biased(logits: Array, rows: SamplingRows, history: Array, bias_ids: Array, bias_values: Array) -> Array:
    """Logits with biases and then penalties, made where the occurrences were counted: no other array of their size."""
    occurrences = _occurrences(rows, history, logits.shape[1])
    few = _columns(bias_ids, logits.shape[1])

    def everywhere(counted: Array) -> Array:
        here, counted = lax.optimization_barrier((logits, counted))  # or parts of it are made before the loop
        return _penalise(here, rows, counted)

    def near() -> Array:
        biased = logits.at[few].get(mode="fill", fill_value=0) + bias_values  # [S, B]
        return _penalise(biased, rows, occurrences.at[few].get(mode="fill", fill_value=0))

    # a branch, so that XLA reads there before it writes, and a loop of one turn, which it does not know to be one:
    # what a loop carries is written over in place
    biased = lax.cond(jnp.any(bias_ids >= 0), near, lambda: jnp.zeros_like(bias_values))
    once = jnp.any(rows.repetition != 1) | jnp.any((rows.frequency != 0) | (rows.presence != 0))
    edited = lax.fori_loop(0, once.astype(jnp.int32), lambda _, counted: everywhere(counted), occurrences)
    return edited.at[few].set(biased, mode="drop")


def _occurrences(rows: SamplingRows, history: Array, vocab: int) -> Array:
    """How often each token occurs in a row's output, and a little more if it occurs in its prompt: f32[S, V]."""
    num_rows, length = history.shape
    output = jnp.arange(length)[None, :] >= rows.prompt_lens[:, None]
    zeros = jnp.zeros((num_rows, vocab), jnp.float32)
    return zeros.at[_columns(history, vocab)].add(jnp.where(output, jnp.float32(1), _IN_PROMPT), mode="drop")


def _penalise(logits: Array, rows: SamplingRows, occurrences: Array) -> Array:
    """Repetition, then frequency and presence, of logits [S, any] whose tokens occur so often."""
    repetition = rows.repetition[:, None]
    counts = jnp.floor(occurrences)
    logits = jnp.where(occurrences > 0, jnp.where(logits > 0, logits / repetition, logits * repetition), logits)
    logits = logits - rows.frequency[:, None] * counts
    return logits - rows.presence[:, None] * (counts > 0).astype(jnp.float32)


def _draw(logits: Array, rows: SamplingRows) -> Array:
    """A token for each row with temperature > 0 (anything for others): i32[S]."""
    vocab = logits.shape[1]
    random = rows.temperature > 0
    top = jnp.max(jnp.max(_grouped(logits, -jnp.inf), axis=2), axis=1)  # [S]
    temperature = jnp.maximum(rows.temperature, _MIN_TEMPERATURE)
    floor = jnp.where(rows.min_p > 0, top + temperature * jnp.log(rows.min_p), -jnp.inf)
    u = uniforms(rows.seeds, rows.positions)

    def weigh(x: Array) -> Array:
        """Probabilities up to a factor, 1 for the likeliest; x is [S, any]."""
        return jnp.exp((x - top[:, None]) / temperature[:, None])

    limits_k = (rows.top_k > 0) & (rows.top_k < vocab)
    filtered = random & (limits_k | (rows.top_p < 1) | (rows.min_p > 0))
    nothing = _Candidates(
        tokens=jnp.zeros_like(rows.top_k), done=jnp.zeros_like(random), kth=jnp.full_like(top, -jnp.inf)
    )
    narrow = lax.cond(jnp.any(filtered), lambda: _draw_narrow(logits, rows, filtered, floor, u, weigh), lambda: nothing)
    wide = random & ~narrow.done
    drawn = lax.cond(
        jnp.any(wide), lambda: _draw_wide(logits, rows, wide, floor, narrow.kth, u, weigh), lambda: narrow.tokens
    )
    return jnp.where(wide, drawn, narrow.tokens)


def _draw_narrow(
    logits: Array, rows: SamplingRows, filtered: Array, floor: Array, u: Array, weigh: Callable[[Array], Array]
) -> _Candidates:
    """Draw among the likeliest tokens. A row is done only where no kept token can lie outside them."""
    vocab = logits.shape[1]
    width = min(_NARROW, vocab)
    # slicing top_k's result would merge into the sort it stands for and hide the top_k from XLA's CPU rewriter (50x)
    values, ids = top_k(logits, width)  # [S, width], likeliest first
    edge = jnp.min(values, axis=1)
    covered = jnp.full_like(filtered, width == vocab)
    limits_k = (rows.top_k > 0) & (rows.top_k < vocab)
    kth = jnp.where(limits_k & (rows.top_k <= width), _at(values, rows.top_k - 1), -jnp.inf)
    base = jnp.maximum(floor, kth)  # the threshold of min_p and top_k
    base_inside = covered | (base > edge)  # strictly: a token equal to the edge may lie outside
    base_known = base_inside | ~limits_k | (rows.top_k <= width)

    weights = weigh(values)
    cumulative = jnp.cumsum(jnp.where(values >= base[:, None], weights, 0.0), axis=1)
    limits_p = rows.top_p < 1
    mass = lax.cond(
        jnp.any(filtered & limits_p & base_known & ~base_inside),
        lambda: _total(jnp.where(logits >= base[:, None], weigh(logits), 0.0)),
        lambda: jnp.zeros_like(u),
    )
    mass = jnp.where(base_inside, cumulative[:, -1], mass)
    reached = cumulative >= (rows.top_p * mass)[:, None]
    cut_p = jnp.max(jnp.where(reached, values, -jnp.inf), axis=1)  # where the mass is first reached
    cut = jnp.where(limits_p, jnp.maximum(base, cut_p), base)

    kept = jnp.where(values >= cut[:, None], weights, 0.0)
    cumulative = jnp.cumsum(kept, axis=1)
    place = _first_above(cumulative, kept, u * cumulative[:, -1])
    return _Candidates(tokens=_at(ids, place), done=filtered & base_known & (covered | (cut > edge)), kth=kth)


def _draw_wide(
    logits: Array,
    rows: SamplingRows,
    wide: Array,
    floor: Array,
    kth: Array,
    u: Array,
    weigh: Callable[[Array], Array],
) -> Array:
    """Draw among all tokens, exactly: i32[S]. kth is known where top_k <= _NARROW."""
    vocab = logits.shape[1]

    def kept(cut: Array) -> Array:
        # weighed anew each time, for which the barrier is: the weights would be one more array of the logits' size
        here, cut = lax.optimization_barrier((logits, cut))
        return jnp.where(here >= cut[:, None], weigh(here), 0.0)

    def bisect_k() -> Array:
        def enough(cut: Array) -> Array:
            return jnp.sum(logits >= cut[:, None], axis=1, dtype=jnp.int32) >= rows.top_k

        return jnp.where(seeks_k, _highest(enough, u.shape[0]), kth)

    def bisect_p() -> Array:
        least = jnp.finfo(jnp.float32).tiny  # a mass of 0 is never enough
        wanted = jnp.maximum(rows.top_p * _total(kept(base)), least)
        cut = _highest(lambda cut: _total(kept(jnp.maximum(cut, base))) >= wanted, u.shape[0])
        return jnp.where(seeks_p, jnp.maximum(cut, base), base)

    seeks_k = wide & (rows.top_k > min(_NARROW, vocab)) & (rows.top_k < vocab)
    base = jnp.maximum(floor, lax.cond(jnp.any(seeks_k), bisect_k, lambda: kth))
    seeks_p = wide & (rows.top_p < 1)
    cut = lax.cond(jnp.any(seeks_p), bisect_p, lambda: base)

    sums = jnp.sum(_grouped(kept(cut), 0.0), axis=2)  # [S, groups]
    cumulative = jnp.cumsum(sums, axis=1)
    target = u * cumulative[:, -1]
    group = _first_above(cumulative, sums, target)
    places = group[:, None] * _GROUP + lax.broadcasted_iota(jnp.int32, (u.shape[0], _GROUP), 1)
    near = jnp.take_along_axis(logits, places, axis=1, mode="fill", fill_value=-jnp.inf)  # [S, _GROUP]
    inside = jnp.where(near >= cut[:, None], weigh(near), 0.0)
    place = _first_above(jnp.cumsum(inside, axis=1), inside, target - _at(cumulative, group - 1))
    return jnp.minimum(group * _GROUP + place, vocab - 1)


def _highest(holds: Callable[[Array], Array], num_rows: int) -> Array:
    """The highest cut f32[S] for which `holds`: a predicate that is true up to some cut, then false; false for NaN.

    Bisection over the uint32 whose order is that of float32: 32 steps reach the exact number.
    """

    def decode(image: Array) -> Array:
        bits = jnp.where(image >= jnp.uint32(_SIGN), image ^ jnp.uint32(_SIGN), ~image)
        return lax.bitcast_convert_type(bits, jnp.float32)

    def step(i: Array, image: Array) -> Array:
        trial = image | (jnp.uint32(_SIGN) >> i.astype(jnp.uint32))
        return jnp.where(holds(decode(trial)), trial, image)

    cut = decode(lax.fori_loop(0, 32, step, jnp.zeros(num_rows, jnp.uint32)))
    # where it holds for no number the search ends among the NaNs below -inf: keep all
    return jnp.where(jnp.isnan(cut), -jnp.inf, cut)


def _at(values: Array, index: Array) -> Array:
    """values[i, index[i]] for each row of [S, N], 0 where the index is out of range. For small N: it reads all."""
    places = lax.broadcasted_iota(jnp.int32, values.shape, 1)
    return jnp.sum(jnp.where(places == index[:, None], values, jnp.zeros_like(values)), axis=1, dtype=values.dtype)


def _first_above(cumulative: Array, weights: Array, target: Array) -> Array:
    """The first index with a weight whose cumulative sum passes target [S]; the last with a weight if none does."""
    positive = weights > 0
    index = lax.broadcasted_iota(jnp.int32, weights.shape, 1)
    none = jnp.int32(weights.shape[1])
    first = jnp.min(jnp.where(positive & (cumulative > target[:, None]), index, none), axis=1)
    last = jnp.max(jnp.where(positive, index, 0), axis=1)
    return jnp.where(first < none, first, last)


def logprobs_of(logits: Array, tokens: Array) -> tuple[Array, Array, Array, Array]:
    """Of the unmodified logits: the tokens' logprobs f32[S] and ranks i32[S], the likeliest ids and their logprobs."""
    top, top_ids = top_k(logits, min(MAX_LOGPROBS, logits.shape[1]))
    largest_logit = jnp.max(top, axis=1, keepdims=True)  # not a slice, see _draw_narrow
    denominator = largest_logit + jnp.log(_total(jnp.exp(logits - largest_logit)))[:, None]  # [S, 1]
    value = jnp.take_along_axis(logits, tokens[:, None], axis=1)  # [S, 1]
    index = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    before = (logits > value) | ((logits == value) & (index < tokens[:, None]))
    rank = 1 + jnp.sum(before, axis=1, dtype=jnp.int32)
    return (value - denominator)[:, 0], rank, top_ids, top - denominator


def _no_logprobs(logits: Array) -> tuple[Array, Array, Array, Array]:
    num_rows, width = logits.shape[0], min(MAX_LOGPROBS, logits.shape[1])
    return (
        jnp.zeros(num_rows, jnp.float32),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros((num_rows, width), jnp.int32),
        jnp.zeros((num_rows, width), jnp.float32),
    )
