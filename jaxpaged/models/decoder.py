"""The one decoder: embed, layers, norm, output head. Families are values in its config.

The step is given flat leaves, never a module or a state: `flatten` once, `unflatten` inside the traced function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxpaged.combinations import QUANTIZATIONS
from jaxpaged.errors import ModelError
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.context import StepContext, make_context
from jaxpaged.models.form import PARAM_DTYPES, WeightForm
from jaxpaged.models.kv import KVPool
from jaxpaged.models.layers import DecoderLayer
from jaxpaged.models.norms import before_product, make_norm
from jaxpaged.models.params import Axes, Linear, declare, declare_matrix, matrix
from jaxpaged.models.rope import rope_table
from pallas_kernels.linear import linear
from pallas_kernels.norm import Norm

__all__ = [
    "PARAM_DTYPES",
    "Decoder",
    "Graph",
    "ParamSpec",
    "StepContext",
    "build",
    "flatten",
    "make_context",
    "unflatten",
]


class Decoder(nnx.Module):
    """A decoder-only language model over a paged KV pool."""

    def __init__(self, config: ModelConfig, *, form: WeightForm) -> None:
        self.config = config
        # a table that is only read by row gains nothing from another form
        rows = WeightForm(dtype=form.dtype)
        self.embed_tokens = Embedding(config, form=form if config.tied else rows)
        embed, width = (config.embed, "embed"), (config.embed_width or 0, None)
        self.project_in = Linear(embed[:1], embed[1:], width, bias=False, form=form) if config.embed_width else None
        self.project_out = Linear(width[:1], width[1:], embed, bias=False, form=form) if config.embed_width else None
        positions = (config.positions, config.embed)
        self.embed_positions = declare(positions, (None, "embed"), "float32") if config.positions else None
        self.layers = nnx.List([DecoderLayer(config, layer, form=form) for layer in config.layers])
        self.norm = make_norm(config.norm, (config.embed,), ("embed",)) if config.final_norm else None
        self.lm_head = None if config.tied else Embedding(config, form=form)
        self.head_bias = declare((config.vocab,), ("vocab",), "float32", init="zeros") if config.head_bias else None

    def __call__(self, token_ids: Array, context: StepContext, pool: KVPool) -> tuple[Array, KVPool]:
        """token_ids i32[T] -> hidden f32[T, E], what `logits` takes, and the pool with the step's tokens in it.

        Ids must be below V.
        """
        config = self.config
        tables = {rope: rope_table(rope, context.positions) for rope in config.ropes()}
        works = dict(zip(config.attention_kinds(), context.works, strict=True))
        kinds, places = config.layer_kinds(), config.kv_places()
        x = self.embed(token_ids, context.positions)
        pools = list(pool)
        for i, layer in enumerate(self.layers):
            kind, place, rope = kinds[i], places[i], config.layers[i].rope
            table, slots = None if rope is None else tables[rope], context.slots[kind.group]
            x, pools[place] = layer(x, table, pools[place], context, slots=slots, work=works[kind])
        return x, tuple(pools)

    def embed(self, token_ids: Array, positions: Array) -> Array:
        """f32[T, E]: what goes into the first layer, of token_ids and positions i32[T]."""
        x, scale = self.embed_tokens.rows(token_ids), self.config.embed_scale
        if self.config.round_embed_scale:
            scale = float(np.asarray(scale, jnp.dtype(self.embed_tokens.form.dtype)))
        if scale != 1.0:
            x = x * scale
        if self.project_in is not None:
            x = self.project_in(x)
        if self.embed_positions is not None:
            x = x + self.embed_positions[...].at[positions + self.config.position_offset].get(mode="clip")
        return x

    def logits(self, hidden: Array) -> Array:
        """hidden f32[S, E] -> f32[S, V]. The last norm is here: no row meets it that gives no logits."""
        config = self.config
        x, norm = before_product(hidden, self.norm)
        if self.project_out is not None:
            x, norm = self.project_out(x, norm=norm), None
        logits = (self.embed_tokens if self.lm_head is None else self.lm_head).logits(x, norm)
        if self.head_bias is not None:
            logits = logits + self.head_bias[...][None, :]
        if config.logit_scale != 1.0:
            logits = logits * config.logit_scale
        if config.logit_softcap is not None:
            logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        return logits


class Embedding(nnx.Module):
    """The table of token vectors [V, E], or of their own width, read by row or as the output head."""

    def __init__(self, config: ModelConfig, *, form: WeightForm) -> None:
        self.form = form
        shape, axes = (config.vocab, config.embed_width or config.embed), ("vocab", "embed")
        self.weight, self.weight_scale = declare_matrix(shape, axes, form)

    def rows(self, token_ids: Array) -> Array:
        """f32[T, E] of token_ids i32[T]."""
        table = matrix(self.weight, self.weight_scale, self.form)
        if isinstance(table, Array):
            return table.at[token_ids].get(mode="clip").astype(jnp.float32)
        return table.rows(token_ids)

    def logits(self, hidden: Array, norm: Norm | None) -> Array:
        """f32[S, V] of hidden f32[S, E]."""
        return linear(hidden, matrix(self.weight, self.weight_scale, self.form), norm=norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamSpec:
    """What a parameter is: path (its attributes joined by dots), shape, dtype, logical axes, initial distribution.

    dtype is int8 where it is quantised; the next parameter, of the same path and "_scale", then holds its scales.
    storage: dtype of the array that holds it, uint16 where it is the bits of a bfloat16. packed: it is held as
    `pallas_kernels.packed`, `packed_f32` or `packed_int8` say.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    storage: np.dtype
    axes: Axes
    init: str
    packed: bool

    @property
    def quantised(self) -> bool:
        """Whether it is held as int8 with scales."""
        return self.dtype == np.int8

    @property
    def is_scale(self) -> bool:
        """Whether it holds the scales of a quantised parameter, and so follows from that one's values."""
        return self.init == "scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The module without its arrays; hashable, so that it may be a static argument. specs: one per leaf, in order.

    structure: the tree definition of the module's state.
    """

    definition: nnx.GraphDef[Decoder]
    structure: Any
    specs: tuple[ParamSpec, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters as they are declared, without what tiles are padded with."""
        return sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in self.specs)


def build(config: ModelConfig, *, dtype: str, packed: bool = False, quantization: str | None = None) -> Graph:
    """The model's graph and the declaration of its parameters; no array is made. The rest: see `WeightForm`.

    Raises ModelError for a dtype other than "float32" and "bfloat16", and for a quantization that is not there.
    """
    if dtype not in PARAM_DTYPES:
        raise ModelError(name="dtype", value=dtype, limit=f"weights are held as {' or '.join(PARAM_DTYPES)}")
    if quantization not in (None, *QUANTIZATIONS):
        raise ModelError(name="quantization", value=quantization, limit=f"it must be {' or '.join(QUANTIZATIONS)}")
    form = WeightForm(dtype=dtype, packed=packed, quantization=quantization)
    return flatten(Decoder(config, form=form))[0]


def flatten(model: Decoder) -> tuple[Graph, tuple[Array, ...]]:
    """Take a module apart. Its leaves are abstract unless arrays were put into it."""
    definition, state = nnx.split(model)
    leaves, structure = jax.tree.flatten(state)
    specs = tuple(
        ParamSpec(
            path=".".join(str(part) for part in path),
            shape=tuple(variable.declared),
            dtype=np.dtype(variable.logical),
            storage=np.dtype(leaf.dtype),
            axes=variable.axes,
            init=variable.init,
            packed=variable.packed,
        )
        for (path, variable), leaf in zip(nnx.to_flat_state(state), leaves, strict=True)
    )
    return Graph(definition=definition, structure=structure, specs=specs), tuple(leaves)


def unflatten(graph: Graph, leaves: Sequence[Array]) -> Decoder:
    """The module around these leaves, in the order of `graph.specs`. Call it inside the traced function."""
    return nnx.merge(graph.definition, jax.tree.unflatten(graph.structure, leaves))
