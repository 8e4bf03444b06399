"""The device half of a step: parameters, KV pool, one compiled step per bucket and one sampler per number of rows.

Owns the donated pool, and the last token drawn at every seat, which goes from step to step without the host. Owns
nothing of the policy. Everything traced here is a pure function of arrays; the step takes a flat tuple of leaves (an
`nnx.State` argument costs milliseconds a call, docs/DECISIONS.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxpaged.batch import StepInputs, StepLayout, unpack
from jaxpaged.buckets import Bucket
from jaxpaged.bundle import Bundle, fingerprint_of
from jaxpaged.config import ResolvedConfig
from jaxpaged.errors import EngineError
from jaxpaged.memory import machine_digest
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import Graph, make_context, unflatten
from jaxpaged.models.kv import KVPool, make_pool, pool_specs
from jaxpaged.request import MAX_BIASES, PENDING, Logprob
from jaxpaged.sampler import Sampled, SamplingRows, sample
from jaxpaged.tuning import user_tuning
from jaxpaged.weights.load import LoadedModel
from pallas_kernels.backend import Backend
from pallas_kernels.tuning import NO_TUNING, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step computed, still on the device; one entry per row of the bucket."""

    sampled: Sampled

    def tokens(self) -> list[int]:
        """Wait for the step and copy the sampled tokens to the host."""
        return np.asarray(self.sampled.tokens).tolist()

    def finite(self) -> list[bool]:
        return np.asarray(self.sampled.finite).tolist()

    def logprobs(self, wanted: Sequence[int | None]) -> list[dict[int, Logprob] | None]:
        """Per row, the chosen token's logprob and the `wanted` likeliest ones; None where None is wanted."""
        if all(count is None for count in wanted):
            return [None] * len(wanted)
        tokens, chosen, ranks, top_ids, top = (
            np.asarray(array)
            for array in (
                self.sampled.tokens,
                self.sampled.logprob,
                self.sampled.rank,
                self.sampled.top_ids,
                self.sampled.top_logprobs,
            )
        )
        rows: list[dict[int, Logprob] | None] = []
        for row, count in enumerate(wanted):
            if count is None:
                rows.append(None)
                continue
            found = {
                int(top_ids[row, i]): Logprob(logprob=float(top[row, i]), rank=i + 1)
                for i in range(min(count, top.shape[1]))
            }
            found.setdefault(int(tokens[row]), Logprob(logprob=float(chosen[row]), rank=int(ranks[row])))
            rows.append(found)
        return rows


class ModelRunner:
    """Runs steps. `execute` launches one and hands the pool on; it never looks at the result."""

    def __init__(self, model: LoadedModel, config: ResolvedConfig, *, bundle: Bundle | None = None) -> None:
        """bundle: where programs come from, instead of being compiled. Raises ConfigError for one made elsewhere."""
        self.model = model
        self.config = config
        self.leaves = model.leaves
        self.backend = Backend(config.attention_backend)
        self.tuning = user_tuning()
        self.fingerprint = fingerprint_of(model, tuning=self.tuning, machine=machine_digest())
        if bundle is not None:
            bundle.check(self.fingerprint)
        self._bundle = bundle
        self.programs: dict[str, jax.stages.Compiled] = {}
        """All that was compiled or loaded so far, by name."""
        self.pool: KVPool = self._empty_pool()
        self._last_tokens = self._no_tokens()
        self._unused: dict[int, tuple[jax.Array, jax.Array, jax.Array]] = {}

    def layout(self, bucket: Bucket) -> StepLayout:
        """Where each field of a step of this bucket lies in the packed vectors."""
        groups = len(self.model.config.kv_groups())
        return StepLayout(bucket=bucket, table_width=self.config.table_width, num_groups=groups)

    def compile(self, bucket: Bucket) -> jax.stages.Compiled:
        """Compile what a step of `bucket` runs, once, without running it. May be called from several threads."""
        name = f"step-{bucket.tokens}x{bucket.rows}"
        if name in self.programs:
            return self.programs[name]
        layout = self.layout(bucket)
        step = partial(
            run_model,
            graphdef=self.model.graphdef,
            config=self.model.config,
            layout=layout,
            backend=self.backend,
            block_size=self.config.block_size,
            tuning=self.tuning,
        )
        arguments = (*_shapes((self.leaves, self.pool, self._last_tokens)), _int32(layout.num_ints))
        return self._program(name, step, arguments, donate=1, results=(self.pool, 0, (0, 0), _ROWS))

    def compile_sampler(self, rows: int) -> jax.stages.Compiled:
        """Compile the sampler of `rows` rows, once; all buckets of as many rows share it. Any thread may call it."""
        name = f"sampler-{rows}"
        if name in self.programs:
            return self.programs[name]
        of, config = jax.ShapeDtypeStruct, self.config
        options = SamplingRows._make(of((rows,), dtype) for dtype in _ROW_DTYPES)
        arguments = (
            _int32(*self._last_tokens.shape),
            (_int32(rows), _int32(rows)),
            of((rows, self.model.config.vocab), jnp.float32),
            options,
            _int32(rows, config.max_model_len),
            _int32(rows, MAX_BIASES),
            of((rows, MAX_BIASES), jnp.float32),
        )
        self._unused_for(rows)
        return self._program(name, draw, arguments, donate=0, results=(0, _SAMPLED))

    def _program(
        self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...], *, donate: int | None, results: Any
    ) -> jax.stages.Compiled:
        """Load or compile a program. results: a tree of the form that it gives."""
        if self._bundle is not None:
            program = self._bundle.load(name, arguments, results)
        else:
            program = jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
        self.programs[name] = program
        return program

    def execute(self, inputs: StepInputs, bucket: Bucket) -> StepResult:
        """Launch one step. Returns at once where the device computes asynchronously.

        Raises EngineError where an earlier step took the pool and did not give it back.
        """
        step, sampler = self.compile(bucket), self.compile_sampler(bucket.rows)
        if self.pool_is_lost:
            raise EngineError(
                name="KV pool",
                value="lost",
                limit="an earlier step was stopped while the device held the pool",
                fix="Abort all requests and call rebuild_pool() of the engine, or make a new one",
            )
        self.pool, logits, last, rows = step(self.leaves, self.pool, self._last_tokens, inputs.ints)
        history, bias_ids, bias_values = self._unused_for(bucket.rows)
        self._last_tokens, sampled = sampler(
            self._last_tokens,
            last,
            logits,
            rows,
            history if inputs.history is None else inputs.history,
            bias_ids if inputs.bias_ids is None else inputs.bias_ids,
            bias_values if inputs.bias_values is None else inputs.bias_values,
        )
        return StepResult(sampled=sampled)

    @property
    def pool_is_lost(self) -> bool:
        """Whether a step was given the pool and failed, or was interrupted, before it gave it back."""
        arrays = [*jax.tree.leaves(self.pool[:1]), self._last_tokens]
        return not self.pool or any(array.is_deleted() for array in arrays)

    def rebuild_pool(self) -> None:
        """A pool of zeros in place of the pool, lost or not."""
        self.pool = ()  # first: there is no room for two
        self.pool = self._empty_pool()
        self._last_tokens = self._no_tokens()

    def _empty_pool(self) -> KVPool:
        config = self.config
        sizes = {"num_blocks": config.num_blocks, "block_size": config.block_size, "dtype": config.kv_cache_dtype}
        form = tuple(spec.abstract() for spec in pool_specs(self.model.config, self.backend, **sizes))
        make = self.programs.get("pool") or self._program(
            "pool", partial(make_pool, self.model.config, self.backend, **sizes), (), donate=None, results=form
        )
        return make()

    def _no_tokens(self) -> Array:
        """i32[seats + 1]: a token for every seat, and one for padding rows."""
        return jax.device_put(np.zeros(self.config.num_seats + 1, np.int32))

    def _unused_for(self, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Device-resident stand-ins for the options that no row of a step uses: nothing to transfer."""
        if rows not in self._unused:
            self._unused[rows] = (
                jax.device_put(np.full((rows, self.config.max_model_len), -1, np.int32)),
                jax.device_put(np.full((rows, MAX_BIASES), -1, np.int32)),
                jax.device_put(np.zeros((rows, MAX_BIASES), np.float32)),
            )
        return self._unused[rows]


_FLOAT_OPTIONS = frozenset({"temperature", "top_p", "min_p", "presence", "frequency", "repetition"})
_ROW_DTYPES = tuple(jnp.float32 if name in _FLOAT_OPTIONS else jnp.int32 for name in SamplingRows._fields)


_ROWS = SamplingRows._make([0] * len(SamplingRows._fields))
_SAMPLED = Sampled._make([0] * len(Sampled._fields))


def _shapes(arrays: Any) -> Any:
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), arrays)


def _int32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def run_model(
    leaves: tuple[Array, ...],
    pool: KVPool,
    last_tokens: Array,
    ints: Array,
    *,
    graphdef: Graph,
    config: ModelConfig,
    layout: StepLayout,
    backend: Backend,
    block_size: int,
    tuning: Table = NO_TUNING,
) -> tuple[KVPool, Array, tuple[Array, Array], SamplingRows]:
    """The model's part of a step, traced: writes K and V of its tokens into the pool.

    last_tokens: i32[seats + 1], drawn by earlier steps. ints: i32[num_ints] as `layout` says. Returns the pool, the
    logits f32[S, V] of each row's last token, these tokens and the rows' seats (i32[S] both), and the rows' options for
    the sampler.
    """
    fields = unpack(ints, layout, lambda bits: lax.bitcast_convert_type(bits, jnp.float32))
    context = make_context(
        fields.cu_q_lens,
        fields.kv_lens,
        fields.block_tables,
        config=config,
        num_tokens=layout.bucket.tokens,
        block_size=block_size,
        backend=backend,
        tuning=tuning,
    )
    # only rows of one token have a token that the host does not know, and they come first: row i has token i
    first, rest = fields.token_ids[: layout.bucket.rows], fields.token_ids[layout.bucket.rows :]
    first = jnp.where(first == PENDING, last_tokens.at[fields.seats].get(mode="clip"), first)
    token_ids = jnp.concatenate([first, rest])
    model = unflatten(graphdef, leaves)
    hidden, pool = model(token_ids, context, pool)  # [T, E]
    last = fields.cu_q_lens[1:] - 1  # [S]: where each row's last token stands
    rows = SamplingRows(
        temperature=fields.temperature,
        top_k=fields.top_k,
        top_p=fields.top_p,
        min_p=fields.min_p,
        presence=fields.presence,
        frequency=fields.frequency,
        repetition=fields.repetition,
        seeds=fields.seeds,
        positions=fields.kv_lens,  # the sampled token's position
        prompt_lens=fields.prompt_lens,
        num_logprobs=fields.num_logprobs,
    )
    return pool, model.logits(hidden[last]), (token_ids[last], fields.seats), rows


def draw(
    last_tokens: Array,
    rows_last: tuple[Array, Array],
    logits: Array,
    rows: SamplingRows,
    history: Array,
    bias_ids: Array,
    bias_values: Array,
) -> tuple[Array, Sampled]:
    """The sampler's part of a step, traced: `sample`, and the tokens it drew remembered at the rows' seats.

    last_tokens: i32[seats + 1], donated. rows_last: each row's last token and its seat, i32[S] both.
    """
    tokens, seats = rows_last
    sampled = sample(logits, rows, history, bias_ids, bias_values, tokens)
    return last_tokens.at[seats].set(sampled.tokens, mode="drop"), sampled
