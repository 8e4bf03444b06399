"""The whole sampler again, in NumPy and float64, from its definition: what a request's next token must be.

Written apart from the engine: it shares no code with the sampler, the masks or the constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from greedy_oracle import TIE

from jaxpaged.sampling_params import SamplingParams

NARROW = 256
"""Likeliest tokens among which the sampler draws by likelihood; elsewhere it draws by token id."""
MARGIN = 2e-6
"""float32 sums: within it of a boundary of the CDF, or of top_p's mass, either side is right."""
_EDGE = 1e-5  # logits that edits bring so close to a limit may be on either side of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks of the sampler. seed: resolved, a uint32. bad_words: sequences of tokens. think: tags.
    form: bool[V], the tokens that have the answer's form, where that is the same everywhere."""

    params: SamplingParams
    prompt: Sequence[int]
    seed: int
    stop_ids: frozenset[int] = frozenset()
    bad_words: Sequence[Sequence[int]] = ()
    think: tuple[Sequence[int], Sequence[int]] = ((), ())
    form: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """kept: bool[V], tokens that may be drawn. token: -1 where there is none. sure: no float32 rounding changes it."""

    kept: np.ndarray
    token: int
    sure: bool


def choose(
    logits: np.ndarray,
    output: Sequence[int],
    asked: Asked,
    *,
    within: np.ndarray | None = None,
    margin: float | None = None,
) -> Expected:
    """The token after `output`. logits: f32[V], the model's own. within: bool[V], what a form of the answer leaves.

    margin: how far other logits than those drawn from may carry what a draw depends on; None: these are the ones.
    """
    may = allowed(len(logits), output, asked)
    if within is not None:
        may &= within
    if not may.any():
        return Expected(kept=may, token=-1, sure=True)
    x = np.where(may, edited(logits, output, asked), -np.inf)
    p = asked.params
    if p.temperature == 0:
        best = int(np.argmax(x))
        others = np.delete(x, best)
        return Expected(kept=x == x[best], token=best, sure=bool(x[best] - others.max(initial=-np.inf) > TIE))
    u = uniform(asked.seed, len(asked.prompt) + len(output))
    filters = {"temperature": p.temperature, "top_k": p.top_k, "top_p": p.top_p, "min_p": p.min_p}
    return draw(x, u, **filters, margin=margin)


def logprobs(logits: np.ndarray) -> np.ndarray:
    """f64[V] of the model's own distribution."""
    x = logits.astype(np.float64)
    x -= x.max()
    return x - np.log(np.exp(x).sum())


def allowed(vocab: int, output: Sequence[int], asked: Asked) -> np.ndarray:
    """bool[V]: what all constraints together leave."""
    p, text = asked.params, list(output)
    may = np.ones(vocab, bool)
    if p.allowed_token_ids is not None:
        may[:] = False
        may[list(p.allowed_token_ids)] = True
    if asked.form is not None:
        may &= asked.form
    for *beginning, last in asked.bad_words:
        if text[len(text) - len(beginning) :] == beginning:
            may[last] = False
    if len(text) < p.min_tokens:
        may[list(asked.stop_ids)] = False
    if p.thinking_token_budget is not None and (only := end_of_thinking(text, asked)) is not None:
        may[np.arange(vocab) != only] = False
    return may


def end_of_thinking(output: Sequence[int], asked: Asked) -> int | None:
    """The token of the end tag that must come now; None where any may come."""
    budget = asked.params.thinking_token_budget
    assert budget is not None
    start, end = ("".join(map(chr, tag)) for tag in asked.think)
    before = "".join(map(chr, asked.prompt))
    text = before + "".join(map(chr, output))
    started, at = (before.rfind(tag) + len(tag) if tag in before else 0 for tag in (start, end))
    begin, spent = started if started > at else -1, 0  # what the prompt closes costs nothing
    while True:
        if begin < 0:
            begin = text.find(start, at)
            if begin < 0:
                return None
            begin += len(start)
        close = text.find(end, begin)
        if close < 0:
            inside = text[begin:]
            begun = max(k for k in range(len(end)) if inside.endswith(end[:k]))
            return ord(end[begun]) if spent + len(inside) - begun >= budget else None
        spent += close - begin
        at, begin = close + len(end), -1


def edited(logits: np.ndarray, output: Sequence[int], asked: Asked) -> np.ndarray:
    """f64[V]: biases, then repetition, frequency and presence penalties, token by token."""
    p, x = asked.params, logits.astype(np.float64)
    for token, bias in (p.logit_bias or {}).items():
        x[token] += bias
    for token in {*asked.prompt, *output}:
        x[token] = x[token] / p.repetition_penalty if x[token] > 0 else x[token] * p.repetition_penalty
    for token in set(output):
        x[token] -= p.frequency_penalty * list(output).count(token) + p.presence_penalty
    return x


def draw(
    x: np.ndarray, u: float, *, temperature: float, top_k: int, top_p: float, min_p: float, margin: float | None = None
) -> Expected:
    """Filters and inverse CDF of one row, by likelihood where the kept set is narrow, else by id. x: [V]."""
    x = x.astype(np.float64)
    slack, other = MARGIN if margin is None else margin, margin or 0.0
    order = np.argsort(-x, kind="stable")
    p = np.exp((x - x.max()) / temperature)
    p /= p.sum()
    ratio = p / p.max()
    kept = ratio >= min_p
    sure = bool(min_p in (0, 1) or np.all(np.abs(ratio / min_p - 1) > max(other, 1e-5)))
    limits_k = 0 < top_k < len(x)
    if limits_k:
        inside, outside = x[order[top_k - 1]], x[order[top_k]]
        sure &= bool(inside == outside or inside - outside > max(other, _EDGE))
        kept &= x >= inside
    edge = x[order[min(NARROW, len(x)) - 1]]
    known = len(x) <= NARROW or not limits_k or top_k <= NARROW or x[kept].min() > edge
    if top_p < 1:
        mass = np.where(kept, p, 0) / p[kept].sum()
        cumulative = np.cumsum(mass[order])
        sure &= bool(np.all(np.abs(cumulative - top_p) > slack))
        kept &= x >= x[order[np.argmax(cumulative >= top_p)]]
    filtered = limits_k or top_p < 1 or min_p > 0
    narrow = filtered and known and (len(x) <= NARROW or x[kept].min() > edge)
    sequence = order if narrow else np.arange(len(x))
    cdf = np.cumsum(np.where(kept, p, 0)[sequence])
    cdf /= cdf[-1]
    place = int(np.argmax((cdf > u) & kept[sequence]))
    edges = np.array([cdf[place], cdf[place - 1] if place else -1.0])
    sure &= bool(np.all(np.abs(edges - u) > slack))
    if narrow and margin is not None:  # tokens of about the same likelihood may change places
        near = x[order[max(place - 1, 0) : place + 2]]
        sure &= bool(np.sum(np.abs(near - x[order[place]]) <= margin) == 1)
    return Expected(kept=kept, token=int(sequence[place]), sure=sure)


def uniform(seed: int, position: int) -> float:
    """The draw at a place of a request: in [0, 1), by Threefry-2x32 (Salmon et al., SC 2011) as JAX keys it."""
    folded = threefry((0, seed), (0, position))
    high, low = threefry(folded, (0, 0))
    bits = ((high ^ low) >> 9) | 0x3F800000  # a float32 in [1, 2)
    return float(np.uint32(bits).view(np.float32)) - 1


def threefry(key: tuple[int, int], counts: tuple[int, int]) -> tuple[int, int]:
    """20 rounds of Threefry-2x32."""
    most = 0xFFFFFFFF
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    a, b = (counts[0] + keys[0]) & most, (counts[1] + keys[1]) & most
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = (a + b) & most
            b = ((b << turn) | (b >> (32 - turn))) & most
            b ^= a
        a = (a + keys[(group + 1) % 3]) & most
        b = (b + keys[(group + 2) % 3] + group + 1) & most
    return a, b
