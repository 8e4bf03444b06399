"""How far one way of computing a model is from another: both score the same text, logits beside logits.

Knows nothing of what makes the two differ: the KV cache's type, the weights', or anything else a `ModelRunner` holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from jaxpaged.bench.circumstances import digits
from jaxpaged.errors import ConfigError
from jaxpaged.inventory import kv_bytes_per_token
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import Graph, make_context, unflatten
from jaxpaged.models.kv import KVPool
from jaxpaged.runner import ModelRunner
from pallas_kernels.backend import Backend

CHUNK = 128
"""Tokens of a step. Each chunk reads the keys and values of all before it, and its own, as the pool holds them."""


class Scorer:
    """The logits at every place of a text, computed through a runner's own leaves and pool in chunks, in one row."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        width, groups = runner.config.table_width, len(runner.model.config.kv_groups())
        assert runner.config.num_blocks > groups * width, "a context does not fit into the pool"
        step = partial(
            _score,
            graphdef=runner.model.graphdef,
            config=runner.model.config,
            backend=runner.backend,
            block_size=runner.config.block_size,
        )
        shapes = (((CHUNK,), jnp.int32), ((2,), jnp.int32), ((1,), jnp.int32), ((groups, 1, width), jnp.int32))
        inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
        self._step = jax.jit(step, donate_argnums=1).lower(runner.leaves, runner.pool, *inputs).compile()
        self._tables = np.arange(1, groups * width + 1, dtype=np.int32).reshape(groups, 1, width)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of a token in the pool, in all layers together, scales included."""
        return kv_bytes_per_token(self.runner.config, self.runner.model.config)

    def logits(self, ids: Sequence[int]) -> Iterator[Array]:
        """f32[CHUNK, V] of each chunk of `ids`, in order; what stands past the end of the text means nothing.

        ids: at most `max_model_len` of the runner. The pool is overwritten.
        """
        assert len(ids) <= self.runner.config.max_model_len, f"{len(ids)} tokens are more than a row holds"
        runner = self.runner
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            padded = np.zeros(CHUNK, np.int32)
            padded[: len(chunk)] = chunk
            ends, kv_lens = np.array([0, len(chunk)], np.int32), np.array([start + len(chunk)], np.int32)
            runner.pool, logits = self._step(runner.leaves, runner.pool, padded, ends, kv_lens, self._tables)
            yield logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Figures of every scored place, f64[places]; logarithms are natural.

    max_error, mean_error: of the logits' differences, relative to the largest logit of the place in the baseline.
    kl: divergence of the variant's distribution from the baseline's. agree: 1 where both have the same likeliest token.
    baseline_nll, variant_nll: minus the log probability of the token that follows.
    """

    max_error: np.ndarray
    mean_error: np.ndarray
    kl: np.ndarray
    agree: np.ndarray
    baseline_nll: np.ndarray
    variant_nll: np.ndarray

    def row(self) -> dict[str, Any]:
        """The figures over all places, for a JSON row. Bits are per token of the text."""
        bits = {name: float(np.mean(getattr(self, f"{name}_nll"))) / math.log(2) for name in ("baseline", "variant")}
        return {
            "positions": len(self.kl),
            "max_logit_error": digits(float(np.max(self.max_error))),
            "mean_logit_error": digits(float(np.mean(self.mean_error))),
            "mean_kl_nats": digits(float(np.mean(self.kl))),
            "max_kl_nats": digits(float(np.max(self.kl))),
            "top1_agreement": round(float(np.mean(self.agree)), 5),
            **{f"{name}_bits_per_token": round(value, 5) for name, value in bits.items()},
            **{f"{name}_perplexity": round(2**value, 5) for name, value in bits.items()},
            "bits_per_token_difference": digits(bits["variant"] - bits["baseline"]),
        }


def compare(baseline: Scorer, variant: Scorer, ids: Sequence[int], *, progress: Mapping[str, Any]) -> Differences:
    """Score a text with both, in contexts of their longest length, each begun with an empty cache.

    A place is scored where a token of the same context follows it. Raises ConfigError for a text without such a place.
    """
    longest = min(scorer.runner.config.max_model_len for scorer in (baseline, variant))
    if len(ids) < 2:
        raise ConfigError(name="text", value=len(ids), limit="its tokens must be at least 2", fix="Give a longer one")
    found: list[np.ndarray] = []
    with tqdm(total=len(ids), unit="token", **progress) as bar:
        for start in range(0, len(ids), longest):
            context = ids[start : start + longest]
            chunks = zip(baseline.logits(context), variant.logits(context), strict=True)
            for i, (base, other) in enumerate(chunks):
                following = context[i * CHUNK + 1 : (i + 1) * CHUNK + 1]
                padded = np.zeros(CHUNK, np.int32)
                padded[: len(following)] = following
                found.append(np.asarray(_differ(base, other, padded), np.float64)[:, : len(following)])
            bar.update(len(context))
    return Differences(**dict(zip(Differences.__dataclass_fields__, np.concatenate(found, axis=1), strict=True)))


@jax.jit
def _differ(base: Array, other: Array, following: Array) -> Array:
    """f32[6, CHUNK], the fields of `Differences` in order, of two logits f32[CHUNK, V] and the tokens that follow."""
    largest = jnp.max(jnp.abs(base), axis=1)
    errors = jnp.abs(base - other)
    log_base, log_other = jax.nn.log_softmax(base), jax.nn.log_softmax(other)
    place = jnp.arange(base.shape[0])
    return jnp.stack(
        [
            jnp.max(errors, axis=1) / largest,
            jnp.mean(errors, axis=1) / largest,
            jnp.sum(jnp.exp(log_base) * (log_base - log_other), axis=1),
            (jnp.argmax(base, axis=1) == jnp.argmax(other, axis=1)).astype(jnp.float32),
            -log_base[place, following],
            -log_other[place, following],
        ]
    )


def _score(
    leaves: tuple[Array, ...],
    pool: KVPool,
    token_ids: Array,
    cu_q_lens: Array,
    kv_lens: Array,
    tables: Array,
    *,
    graphdef: Graph,
    config: ModelConfig,
    backend: Backend,
    block_size: int,
) -> tuple[KVPool, Array]:
    """The pool and the logits f32[CHUNK, V] of one row's next tokens i32[CHUNK]; tables i32[groups, 1, W]."""
    context = make_context(
        cu_q_lens,
        kv_lens,
        tables,
        config=config,
        num_tokens=CHUNK,
        block_size=block_size,
        backend=backend,
    )
    model = unflatten(graphdef, leaves)
    hidden, pool = model(token_ids, context, pool)
    return pool, model.logits(hidden)
