"""The device half of a step: parameters, KV pool, and one compiled program per bucket.

Owns the donated pool and nothing of the policy. Everything traced here is a pure function of arrays; the step takes a
flat tuple of leaves (an `nnx.State` argument costs milliseconds a call, docs/DECISIONS.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpaged.batch import StepFields, StepInputs, StepLayout, unpack
from jaxpaged.buckets import Bucket
from jaxpaged.config import ResolvedConfig
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import make_context, unflatten
from jaxpaged.models.kv import KVPool, make_pool
from jaxpaged.request import MAX_BIASES, Logprob
from jaxpaged.sampler import Sampled, SamplingRows, sample
from jaxpaged.weights.load import LoadedModel
from pallas_kernels.backend import Backend


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

    def __init__(self, model: LoadedModel, config: ResolvedConfig) -> None:
        self.model = model
        self.config = config
        self.leaves = model.leaves
        self.backend = Backend(config.attention_backend)
        self.pool: KVPool = make_pool(
            model.config,
            self.backend,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            dtype=config.dtype,
        )
        self._steps: dict[Bucket, jax.stages.Compiled] = {}
        self._unused: dict[int, tuple[jax.Array, jax.Array, jax.Array]] = {}

    def layout(self, bucket: Bucket) -> StepLayout:
        """Where each field of a step of this bucket lies in the packed vectors."""
        groups = len(self.model.config.kv_groups())
        return StepLayout(bucket=bucket, table_width=self.config.table_width, num_groups=groups)

    def is_compiled(self, bucket: Bucket) -> bool:
        return bucket in self._steps

    def compile(self, bucket: Bucket) -> jax.stages.Compiled:
        """Compile the step of `bucket`, once, without running it."""
        if bucket not in self._steps:
            layout = self.layout(bucket)
            step = partial(
                run_step,
                graphdef=self.model.graphdef,
                config=self.model.config,
                layout=layout,
                backend=self.backend,
                block_size=self.config.block_size,
            )
            arguments = self._abstract_arguments(layout)
            self._steps[bucket] = jax.jit(step, donate_argnums=1).lower(*arguments).compile()
            self._unused_for(bucket.rows)
        return self._steps[bucket]

    def execute(self, inputs: StepInputs, bucket: Bucket) -> StepResult:
        """Launch one step. Returns at once where the device computes asynchronously."""
        step = self.compile(bucket)
        history, bias_ids, bias_values = self._unused_for(bucket.rows)
        self.pool, sampled = step(
            self.leaves,
            self.pool,
            inputs.ints,
            inputs.floats,
            history if inputs.history is None else inputs.history,
            bias_ids if inputs.bias_ids is None else inputs.bias_ids,
            bias_values if inputs.bias_values is None else inputs.bias_values,
        )
        return StepResult(sampled=sampled)

    def _unused_for(self, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Device-resident stand-ins for the options that no row of a step uses: nothing to transfer."""
        if rows not in self._unused:
            self._unused[rows] = (
                jax.device_put(np.full((rows, self.config.max_model_len), -1, np.int32)),
                jax.device_put(np.full((rows, MAX_BIASES), -1, np.int32)),
                jax.device_put(np.zeros((rows, MAX_BIASES), np.float32)),
            )
        return self._unused[rows]

    def _abstract_arguments(self, layout: StepLayout) -> tuple[Any, ...]:
        rows = layout.bucket.rows
        shapes = (
            ((layout.num_ints,), jnp.int32),
            ((layout.num_floats,), jnp.float32),
            ((rows, self.config.max_model_len), jnp.int32),
            ((rows, MAX_BIASES), jnp.int32),
            ((rows, MAX_BIASES), jnp.float32),
        )
        describe: Callable[[jax.Array], jax.ShapeDtypeStruct] = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)  # noqa: E731
        return (
            jax.tree.map(describe, self.leaves),
            jax.tree.map(describe, self.pool),
            *(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes),
        )


def run_step(
    leaves: tuple[jax.Array, ...],
    pool: KVPool,
    ints: jax.Array,
    floats: jax.Array,
    history: jax.Array,
    bias_ids: jax.Array,
    bias_values: jax.Array,
    *,
    graphdef: Any,
    config: ModelConfig,
    layout: StepLayout,
    backend: Backend,
    block_size: int,
) -> tuple[KVPool, Sampled]:
    """One step, traced: the model, then a token for each row.

    ints: i32[num_ints] and floats: f32[num_floats] as `layout` says; history: i32[S, longest context];
    bias_ids, bias_values: [S, MAX_BIASES].
    """
    fields = unpack(ints, floats, layout)
    pool, logits = run_model(
        leaves, pool, fields, graphdef=graphdef, config=config, layout=layout, backend=backend, block_size=block_size
    )
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
    return pool, sample(logits, rows, history, bias_ids, bias_values)


def run_model(
    leaves: tuple[jax.Array, ...],
    pool: KVPool,
    fields: StepFields,
    *,
    graphdef: Any,
    config: ModelConfig,
    layout: StepLayout,
    backend: Backend,
    block_size: int,
) -> tuple[KVPool, jax.Array]:
    """Write the step's K and V into the pool; returns it and the logits f32[S, V] of each row's last token."""
    context = make_context(
        fields.cu_q_lens,
        fields.kv_lens,
        fields.block_tables,
        config=config,
        num_tokens=layout.bucket.tokens,
        block_size=block_size,
        backend=backend,
    )
    model = unflatten(graphdef, leaves)
    hidden, pool = model(fields.token_ids, context, pool)  # [T, E]
    return pool, model.logits(hidden[fields.sample_at])
