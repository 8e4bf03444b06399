"""What runs on the device, compiled: one program of the model a bucket, one sampler a number of rows, and one that
picks logprobs, one that makes the pool, one that copies blocks of it, one that scores prompts and, for it, one a number
of tokens that picks their hidden vectors.

Owns the traced functions, which are pure functions of arrays, and what they are compiled for; holds no array of the
pool. A step takes a flat tuple of leaves (an `nnx.State` argument costs milliseconds a call, docs/DECISIONS.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpaged.batch import COPIES, StepLayout, unpack
from jaxpaged.buckets import Bucket, BucketTable
from jaxpaged.bundle import Bundle, fingerprint_of
from jaxpaged.config import ResolvedConfig
from jaxpaged.device import machine_digest
from jaxpaged.masks import mask_words
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import Graph, make_context, unflatten
from jaxpaged.models.kv import KVPool, copy_blocks, make_pool, pool_specs
from jaxpaged.request import PENDING
from jaxpaged.sampler import Sampled, SamplingRows, sample
from jaxpaged.sampling_params import MAX_BIASES
from jaxpaged.scoring import Scored, pick, score
from jaxpaged.step_memory import StepMemory, options_bytes
from jaxpaged.tuning import user_tuning
from jaxpaged.weights.load import LoadedModel
from jaxpaged.wide_logprobs import WIDE_ROWS, pick_logits
from pallas_kernels.backend import Backend
from pallas_kernels.tuning import NO_TUNING, Table

_FLOAT_OPTIONS = frozenset({"temperature", "top_p", "min_p", "presence", "frequency", "repetition"})
_ROW_DTYPES = tuple(jnp.float32 if name in _FLOAT_OPTIONS else jnp.int32 for name in SamplingRows._fields)
_ROWS = SamplingRows._make([0] * len(SamplingRows._fields))
_SAMPLED = Sampled._make([0] * len(Sampled._fields))
_SCORED = Scored._make([0] * len(Scored._fields))


class Programs:
    """The programs of a model for one setting, compiled or loaded when first asked for, each once.

    Asking may come from several threads.
    """

    def __init__(
        self,
        model: LoadedModel,
        config: ResolvedConfig,
        *,
        bundle: Bundle | None = None,
        samplers: Programs | None = None,
    ) -> None:
        """bundle: where programs come from, instead of being compiled. samplers: programs of another model with as many
        tokens, whose samplers serve as well. Raises ConfigError for a bundle made elsewhere."""
        self.model = model
        self.config = config
        self.backend = Backend(config.attention_backend)
        self.tuning = user_tuning()
        self._num_groups = len(model.config.kv_groups())
        if bundle is not None:
            bundle.check(self.fingerprint)
        self.bundle = bundle
        self._samplers = samplers
        self.compiled: dict[str, jax.stages.Compiled] = {}
        """All that was compiled or loaded so far, by name."""

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What the programs depend on, by name. Reads all sources: only a bundle needs it."""
        return fingerprint_of(self.model, tuning=self.tuning, machine=machine_digest())

    def layout(self, bucket: Bucket) -> StepLayout:
        """Where each field of a step of this bucket lies in the packed vectors."""
        return StepLayout(bucket=bucket, table_width=self.config.table_width, num_groups=self._num_groups)

    def step(self, bucket: Bucket) -> jax.stages.Compiled:
        """The model's part of a step of `bucket`; the pool is donated."""
        name = _step_name(bucket)
        if name in self.compiled:
            return self.compiled[name]
        layout, pool = self.layout(bucket), self._pool_form()
        step = partial(
            run_model,
            graphdef=self.model.graphdef,
            config=self.model.config,
            layout=layout,
            backend=self.backend,
            block_size=self.config.block_size,
            tuning=self.tuning,
        )
        arguments = (_shapes(self.model.leaves), pool, self._last_tokens(), _int32(layout.num_ints))
        return self._program(name, step, arguments, donate=1, results=(pool, 0, (0, 0), _ROWS, 0))

    def sampler(self, rows: int) -> jax.stages.Compiled:
        """The sampler of `rows` rows; all buckets of as many rows share it."""
        if self._samplers is not None:
            return self._samplers.sampler(rows)
        name = f"sampler-{rows}"
        if name in self.compiled:
            return self.compiled[name]
        of, config = jax.ShapeDtypeStruct, self.config
        arguments = (
            self._last_tokens(),
            (_int32(rows), _int32(rows)),
            of((rows, self.model.config.vocab), jnp.float32),
            SamplingRows._make(of((rows,), dtype) for dtype in _ROW_DTYPES),
            _int32(rows, config.max_model_len),
            _int32(rows, MAX_BIASES),
            of((rows, MAX_BIASES), jnp.float32),
            _int32(rows, mask_words(self.model.config.vocab)),
        )
        return self._program(name, draw, arguments, donate=0, results=(0, _SAMPLED))

    def logprob_picker(self, rows: int) -> jax.stages.Compiled:
        """Picks the logprobs that the sampler of `rows` rows does not give, WIDE_ROWS at a time."""
        name = f"logprobs-{rows}"
        if name in self.compiled:
            return self.compiled[name]
        logits = jax.ShapeDtypeStruct((rows, self.model.config.vocab), jnp.float32)
        return self._program(name, pick_logits, (logits, _int32(WIDE_ROWS)), donate=None, results=(0, 0))

    def picker(self, tokens: int) -> jax.stages.Compiled:
        """Picks the hidden vectors that are scored out of a step of `tokens` tokens."""
        name = f"pick-{tokens}"
        return self.compiled.get(name) or self._program(
            name, pick, (self._hidden(tokens), _int32(self.config.score_rows)), donate=None, results=0
        )

    def scorer(self) -> jax.stages.Compiled:
        """Scores prompt tokens, `score_rows` at a time; all buckets share it."""
        if (program := self.compiled.get("score")) is not None:
            return program
        arguments = (_shapes(self.model.leaves), self._hidden(self.config.score_rows), _int32(self.config.score_rows))
        function = partial(score, graphdef=self.model.graphdef)
        return self._program("score", function, arguments, donate=None, results=_SCORED)

    def copier(self) -> jax.stages.Compiled:
        """Copies blocks of the pool, `COPIES` at a time; the pool is donated."""
        if (program := self.compiled.get("copy")) is not None:
            return program
        pool = self._pool_form()
        return self._program("copy", copy_blocks, (pool, _int32(2, COPIES)), donate=0, results=pool)

    def pool_maker(self) -> jax.stages.Compiled:
        """Makes a pool of zeros, of nothing."""
        make = partial(make_pool, self.model.config, self.backend, **self._pool_sizes())
        return self.compiled.get("pool") or self._program("pool", make, (), donate=None, results=self._pool_form())

    def step_memory(self, buckets: BucketTable) -> StepMemory | None:
        """What the largest step takes beside weights and pool, as its programs say; compiles them where they are not
        yet. None where they do not say it."""
        (bucket,) = buckets.base.mixed
        programs = (
            self.step(bucket),
            self.sampler(bucket.rows),
            self.logprob_picker(bucket.rows),
            self.picker(bucket.tokens),
            self.scorer(),
        )
        sizes = [size for program in programs if (size := _transient(program)) is not None]
        if len(sizes) < len(programs):
            return None
        # one after the other; what the step gives, logits and hidden vectors, stays until the others have read it
        (step_temp, given), sampled, (wide_temp, wide), (pick_temp, picked), (score_temp, scored) = sizes
        slices = -(-bucket.tokens // self.config.score_rows)
        scoring = pick_temp + picked + score_temp + slices * scored
        telling = wide_temp + -(-bucket.rows // WIDE_ROWS) * wide
        longest, vocab = self.config.max_model_len, self.model.config.vocab
        unused = options_bytes({bucket.rows for bucket in buckets}, max_model_len=longest, vocab=vocab)
        num_bytes = given + max(step_temp, sum(sampled), scoring, telling) + unused
        return StepMemory(num_bytes=num_bytes, source="memory_analysis")

    def has_step(self, bucket: Bucket) -> bool:
        """Whether all programs of a step of this bucket are there."""
        of_rows = {f"sampler-{bucket.rows}", f"logprobs-{bucket.rows}"}
        names = {_step_name(bucket), *of_rows, f"pick-{bucket.tokens}", "score", "copy"}
        return names <= self.compiled.keys()

    def with_pool(self, config: ResolvedConfig) -> Programs:
        """Programs for another number of blocks; those that do not depend on it are kept."""
        other = Programs(self.model, config, bundle=self.bundle)
        if config == replace(self.config, num_blocks=config.num_blocks, reasons=config.reasons):
            kept = ("sampler-", "logprobs-", "pick-", "score")
            other.compiled.update({name: it for name, it in self.compiled.items() if name.startswith(kept)})
        return other

    def _program(
        self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...], *, donate: int | None, results: Any
    ) -> jax.stages.Compiled:
        """Load or compile a program. results: a tree of the form that it gives."""
        if self.bundle is not None:
            program = self.bundle.load(name, arguments, results)
        else:
            program = jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
        self.compiled[name] = program
        return program

    def _pool_sizes(self) -> dict[str, Any]:
        config = self.config
        return {"num_blocks": config.num_blocks, "block_size": config.block_size, "dtype": config.kv_cache_dtype}

    def _pool_form(self) -> KVPool:
        return tuple(spec.abstract() for spec in pool_specs(self.model.config, self.backend, **self._pool_sizes()))

    def _hidden(self, tokens: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((tokens, self.model.config.embed), jnp.float32)

    def _last_tokens(self) -> jax.ShapeDtypeStruct:
        return _int32(self.config.num_seats + 1)


def _step_name(bucket: Bucket) -> str:
    return f"step-{bucket.tokens}x{bucket.rows}"


def _transient(program: jax.stages.Compiled) -> tuple[int, int] | None:
    """Bytes of a program's temporaries, and of what it gives that is no donated argument; None if it cannot say."""
    memory: Any = program.memory_analysis()
    if memory is None:
        return None
    return memory.temp_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes


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
) -> tuple[KVPool, Array, tuple[Array, Array], SamplingRows, Array]:
    """The model's part of a step, traced: writes K and V of its tokens into the pool.

    last_tokens: i32[seats + 1], drawn by earlier steps. ints: i32[num_ints] as `layout` says. Returns the pool, the
    logits f32[S, V] of the token that each row draws after, these tokens and the rows' seats (i32[S] both), the rows'
    options for the sampler, and the hidden vectors f32[T, E] of all tokens.
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
    last = fields.sampled_at  # [S]
    rows = SamplingRows(
        temperature=fields.temperature,
        top_k=fields.top_k,
        top_p=fields.top_p,
        min_p=fields.min_p,
        presence=fields.presence,
        frequency=fields.frequency,
        repetition=fields.repetition,
        seeds=fields.seeds,
        positions=fields.positions,
        prompt_lens=fields.prompt_lens,
        num_logprobs=fields.num_logprobs,
    )
    held = jnp.where(fields.positions > 0, jnp.arange(1, layout.bucket.rows + 1, dtype=jnp.int32), 0)
    count = jnp.max(held, keepdims=True)  # rows stand before the padding
    return pool, model.logits(hidden[last], count), (token_ids[last], fields.seats), rows, hidden


def draw(
    last_tokens: Array,
    rows_last: tuple[Array, Array],
    logits: Array,
    rows: SamplingRows,
    history: Array,
    bias_ids: Array,
    bias_values: Array,
    masks: Array,
) -> tuple[Array, Sampled]:
    """The sampler's part of a step, traced: `sample`, and the tokens it drew remembered at the rows' seats.

    last_tokens: i32[seats + 1], donated. rows_last: the token that each row draws after, and its seat, i32[S] both.
    """
    tokens, seats = rows_last
    sampled = sample(logits, rows, history, bias_ids, bias_values, masks, tokens)
    # where a mask allows nothing the request ends, and a step that is on its way already reads some token
    return last_tokens.at[seats].set(jnp.maximum(sampled.tokens, 0), mode="drop"), sampled
