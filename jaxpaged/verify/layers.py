"""The first layer that diverges: our decoder cut after each layer, beside the oracle's residual stream.

The decoder needs no hook: one of its first k layers is the same decoder with a shorter config and fewer leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import Graph, build, make_context, unflatten
from jaxpaged.models.kv import KVPool, make_pool
from jaxpaged.weights.load import LoadedModel
from pallas_kernels.backend import Backend

_ALIGN = 64  # the number of tokens is padded to a multiple
ATTENTION = re.compile(r"\.self_attn\.o_proj\b")
"""The parameters of a layer without which its attention adds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where we and the oracle part. part: "embedding", "layer 3", "final norm", "output head" or "steps" (the layers
    agree when all tokens are computed at once). branch: "attention" or "feed-forward" of a layer, else "".

    errors: by number of layers, how far the residual stream is off after them, as `residual_error` measures it; only
    those that were looked at.
    """

    part: str
    branch: str
    errors: dict[int, float]

    def __str__(self) -> str:
        return f"{self.part}, {self.branch}" if self.branch else self.part


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """embedded: f32[n, E], what goes into the first layer; stream: f32[n, E], after the last; normed: the final norm of
    it; last_logits: f32[V] that the last token would give.
    """

    embedded: np.ndarray
    stream: np.ndarray
    normed: np.ndarray
    last_logits: np.ndarray


class CutDecoder:
    """Our model, float32, cut after some layers, computed for one text through a paged pool in one step."""

    def __init__(self, model: LoadedModel, backend: Backend, ids: Sequence[int], *, block_size: int) -> None:
        """model: with its leaves as `packed` says in their declarations."""
        self._model, self._backend, self._block_size = model, backend, block_size
        self._count = len(ids)
        self._tokens = -(-len(ids) // _ALIGN) * _ALIGN
        self._ids = np.zeros(self._tokens, np.int32)
        self._ids[: len(ids)] = ids
        self._leaves = dict(zip((spec.path for spec in model.graphdef.specs), model.leaves, strict=True))

    def residual(self, layers: int, *, without: re.Pattern[str] | None = None) -> Residual:
        """What stands after so many layers, at least 1. without: parameters of the last of them that are zero."""
        model = self._model
        config = replace(model.config, layers=model.config.layers[:layers])
        packed = any(spec.packed for spec in model.graphdef.specs)
        graph = build(config, dtype=model.dtype, packed=packed)
        last = f"layers.{layers - 1}."
        leaves = tuple(
            jnp.zeros_like(leaf) if without and spec.path.startswith(last) and without.search(spec.path) else leaf
            for spec in graph.specs
            for leaf in [self._leaves[spec.path]]
        )
        blocks, groups = -(-self._tokens // self._block_size), len(config.kv_groups())
        sizes = {"num_blocks": groups * blocks + 1, "block_size": self._block_size}
        pool = make_pool(config, self._backend, **sizes, dtype=model.dtype)
        tables = np.arange(1, groups * blocks + 1, dtype=np.int32).reshape(groups, 1, blocks)
        step = partial(_residual, graph=graph, config=config, backend=self._backend, block_size=self._block_size)
        ends, kv_lens = np.array([0, self._count], np.int32), np.array([self._count], np.int32)
        found = jax.jit(step)(leaves, pool, self._ids, ends, kv_lens, tables)
        embedded, stream, normed, logits = (np.asarray(array)[: self._count] for array in found)
        return Residual(embedded=embedded, stream=stream, normed=normed, last_logits=logits[0])


def first_divergence(
    cut: CutDecoder,
    num_layers: int,
    oracle: Callable[[int | None], list[np.ndarray]],
    last_logits: np.ndarray,
    *,
    tolerance: float,
) -> Divergence:
    """oracle: `Oracle.residuals` of the text, given the layer whose attention adds nothing. last_logits: f32[V], its
    logits of the last token.

    The first layer is found by halving, for what has diverged stays so: a decoder is compiled for each cut. Whether it
    is attention: the layer's other half is compared with attention left out on both sides.
    """
    plain, end = oracle(None), cut.residual(num_layers)
    errors = {num_layers: residual_error(end.stream, plain[num_layers])}
    if errors[num_layers] <= tolerance:  # NaN is not
        if not residual_error(end.normed, plain[-1]) <= tolerance:
            return Divergence(part="final norm", branch="", errors=errors)
        off = np.abs(end.last_logits - last_logits).max() / np.abs(last_logits).max()
        return Divergence(part="steps" if off <= tolerance else "output head", branch="", errors=errors)
    low, high = 0, num_layers  # after `low` layers all is well, after `high` it is not
    while high - low > 1:
        middle = (low + high) // 2
        errors[middle] = residual_error(cut.residual(middle).stream, plain[middle])
        low, high = (middle, high) if errors[middle] <= tolerance else (low, middle)
    layer = high - 1
    if layer == 0:
        errors[0] = residual_error(end.embedded, plain[0])
        if not errors[0] <= tolerance:
            return Divergence(part="embedding", branch="", errors=errors)
    rest = residual_error(cut.residual(high, without=ATTENTION).stream, oracle(layer)[high])
    branch = "attention" if rest <= tolerance else "feed-forward"
    return Divergence(part=f"layer {layer}", branch=branch, errors=errors)


def residual_error(ours: np.ndarray, oracle: np.ndarray) -> float:
    """The largest over all tokens of |difference| / |oracle|, lengths of vectors f32[n, E].

    Token by token, since some models give one token a vector a thousand times the others' length.
    """
    apart = np.linalg.norm(ours.astype(np.float64) - oracle, axis=1)
    length = np.linalg.norm(oracle.astype(np.float64), axis=1)
    return float(np.max(apart / np.maximum(length, np.finfo(np.float32).tiny)))


def _residual(
    leaves: tuple[Array, ...],
    pool: KVPool,
    token_ids: Array,
    cu_q_lens: Array,
    kv_lens: Array,
    tables: Array,
    *,
    graph: Graph,
    config: ModelConfig,
    backend: Backend,
    block_size: int,
) -> tuple[Array, Array, Array, Array]:
    """Of one row's tokens i32[T]: what goes into the first layer, what comes out of the last, and its final norm, all
    f32[T, E], and the logits f32[1, V] of the row's last token; tables i32[groups, 1, W]."""
    context = make_context(
        cu_q_lens,
        kv_lens,
        tables,
        config=config,
        num_tokens=token_ids.shape[0],
        block_size=block_size,
        backend=backend,
    )
    decoder = unflatten(graph, leaves)
    hidden, _ = decoder(token_ids, context, pool)
    normed = hidden if decoder.norm is None else decoder.norm(hidden)
    return decoder.embed(token_ids, context.positions), hidden, normed, decoder.logits(hidden[cu_q_lens[1:] - 1])
