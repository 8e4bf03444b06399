"""Whole engine steps of well-known models, copies before and sampler and scorer after, without an array anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from codegen.program import Program
from jax import Array

from jaxpaged.batch import COPIES, StepLayout
from jaxpaged.bench.shapes import shape_config
from jaxpaged.buckets import Bucket
from jaxpaged.limits import num_seats, score_rows
from jaxpaged.masks import mask_words
from jaxpaged.models.decoder import build
from jaxpaged.models.families import read_config
from jaxpaged.models.kv import copy_blocks, pool_specs
from jaxpaged.programs import draw, run_model
from jaxpaged.sampler import SamplingRows
from jaxpaged.sampling_params import MAX_BIASES
from jaxpaged.scoring import Scored, pick, score
from pallas_kernels.backend import Backend

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of `shape` with `context` tokens a row at most, and a pool for `pool_tokens` in all.

    quantization: of the weights, as `build` takes it.
    """

    shape: str
    tokens: int
    rows: int
    context: int
    pool_tokens: int = 262_144
    kv_dtype: str = "bfloat16"
    quantization: str | None = None


STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "llama-3.1-8b-decode": Step(shape="llama-3.1-8b", tokens=64, rows=64, context=8192),
        "llama-3.1-8b-mixed": Step(shape="llama-3.1-8b", tokens=2048, rows=64, context=8192),
        "llama-3.1-8b-mixed-small-pool": Step(
            shape="llama-3.1-8b", tokens=2048, rows=64, context=8192, pool_tokens=8192
        ),
        "llama-3.1-8b-decode-int8": Step(shape="llama-3.1-8b", tokens=64, rows=64, context=8192, kv_dtype="int8"),
        "llama-3.1-8b-decode-fp8": Step(
            shape="llama-3.1-8b", tokens=64, rows=64, context=8192, kv_dtype="float8_e4m3fn"
        ),
        "llama-3.1-8b-decode-w8": Step(shape="llama-3.1-8b", tokens=64, rows=64, context=8192, quantization="int8"),
        "llama-3.1-8b-mixed-w8": Step(shape="llama-3.1-8b", tokens=2048, rows=64, context=8192, quantization="int8"),
        "mistral-7b-32k-decode": Step(shape="mistral-7b", tokens=32, rows=32, context=32768),
        "mistral-7b-32k-mixed": Step(shape="mistral-7b", tokens=2048, rows=32, context=32768),
        "mixtral-8x7b-32k-decode": Step(shape="mixtral-8x7b", tokens=16, rows=16, context=32768),
        "mixtral-8x7b-32k-decode-w8": Step(
            shape="mixtral-8x7b", tokens=16, rows=16, context=32768, quantization="int8"
        ),
        "mixtral-8x7b-32k-mixed": Step(shape="mixtral-8x7b", tokens=2048, rows=16, context=32768),
        # heads of 256, softcap, windows by turns
        "gemma-2-9b-decode": Step(shape="gemma-2-9b", tokens=64, rows=64, context=8192),
        "gemma-2-9b-mixed": Step(shape="gemma-2-9b", tokens=2048, rows=64, context=8192),
        # heads of 256, ropes by layer type
        "gemma-3-12b-32k-decode": Step(shape="gemma-3-12b", tokens=32, rows=32, context=32768),
        "gemma-3-12b-32k-mixed": Step(shape="gemma-3-12b", tokens=2048, rows=32, context=32768),
        # sinks, windows of 128, experts with biases
        "gpt-oss-20b-32k-decode": Step(shape="gpt-oss-20b", tokens=64, rows=64, context=32768),
        "gpt-oss-20b-32k-mixed": Step(shape="gpt-oss-20b", tokens=2048, rows=64, context=32768),
        # many small experts
        "qwen3-30b-a3b-decode": Step(shape="qwen3-30b-a3b", tokens=64, rows=64, context=8192),
        "qwen3-30b-a3b-mixed": Step(shape="qwen3-30b-a3b", tokens=2048, rows=64, context=8192),
    }
)


def step_program(step: Step) -> Program:
    """The model's part of an engine step, all layers; the pool is given away, as the runner does."""
    config = read_config(shape_config(step.shape))
    graph = build(config, dtype="bfloat16", quantization=step.quantization)
    layout = StepLayout(
        bucket=Bucket(tokens=step.tokens, rows=step.rows),
        table_width=-(-step.context // BLOCK_SIZE),
        num_groups=len(config.kv_groups()),
    )
    specs = pool_specs(
        config,
        Backend.TRITON,
        num_blocks=step.pool_tokens // BLOCK_SIZE + 1,
        block_size=BLOCK_SIZE,
        dtype=step.kv_dtype,
    )
    of = jax.ShapeDtypeStruct
    arguments = (
        tuple(of(spec.shape, spec.storage) for spec in graph.specs),
        tuple(spec.abstract() for spec in specs),
        of((num_seats(step.rows) + 1,), jnp.int32),
        of((layout.num_ints,), jnp.int32),
    )
    function = partial(
        run_model, graphdef=graph, config=config, layout=layout, backend=Backend.TRITON, block_size=BLOCK_SIZE
    )
    mixed = ("mixed",) if step.tokens > step.rows else ()
    experts = ("grouped_matmul",) if config.layers[0].moe else ()
    kernels = ("write_kv", "decode", *mixed, *experts)
    return Program(function=function, arguments=arguments, donate=(1,), kernels=kernels, pool=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopierShape:
    """What copies blocks of the pool of `shape`, of so many tokens."""

    shape: str
    kv_dtype: str = "bfloat16"
    pool_tokens: int = 262_144


COPIERS: Mapping[str, CopierShape] = MappingProxyType(
    {
        "copier-llama-3.1-8b": CopierShape(shape="llama-3.1-8b"),
        "copier-llama-3.1-8b-int8": CopierShape(shape="llama-3.1-8b", kv_dtype="int8"),
        "copier-llama-3.1-8b-fp8": CopierShape(shape="llama-3.1-8b", kv_dtype="float8_e4m3fn"),
    }
)


def copier_program(shape: CopierShape) -> Program:
    """What runs before a step whose requests get tails of their own."""
    sizes = {"num_blocks": shape.pool_tokens // BLOCK_SIZE + 1, "block_size": BLOCK_SIZE, "dtype": shape.kv_dtype}
    specs = pool_specs(read_config(shape_config(shape.shape)), Backend.TRITON, **sizes)
    arguments = (tuple(spec.abstract() for spec in specs), jax.ShapeDtypeStruct((2, COPIES), jnp.int32))
    most_temp = sum(spec.bytes_per_block for spec in specs) + 2**16
    return Program(
        function=copy_blocks, arguments=arguments, donate=(0,), pool=0, most_temp=most_temp, updates_pool=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerShape:
    """The sampler of this many rows."""

    rows: int
    vocab: int
    context: int


SAMPLERS: Mapping[str, SamplerShape] = MappingProxyType(
    {
        "sampler-llama-3.1-8b": SamplerShape(rows=64, vocab=128256, context=8192),
        "sampler-mistral-7b": SamplerShape(rows=32, vocab=32000, context=32768),
    }
)


def sampler_program(shape: SamplerShape) -> Program:
    """The engine's second program of a step."""
    of, rows = jax.ShapeDtypeStruct, shape.rows
    floats = {"temperature", "top_p", "min_p", "presence", "frequency", "repetition"}
    options: dict[str, Any] = {
        name: of((rows,), jnp.float32 if name in floats else jnp.int32) for name in SamplingRows._fields
    }
    arguments = (
        of((num_seats(rows) + 1,), jnp.int32),
        (of((rows,), jnp.int32), of((rows,), jnp.int32)),
        of((rows, shape.vocab), jnp.float32),
        SamplingRows(**options),
        of((rows, shape.context), jnp.int32),
        of((rows, MAX_BIASES), jnp.int32),
        of((rows, MAX_BIASES), jnp.float32),
        of((rows, mask_words(shape.vocab)), jnp.int32),
    )
    # the logits with biases and penalties, the history with last tokens, and what the 256 likeliest are looked for in
    most_temp = 4 * rows * (shape.vocab + shape.context + 80 * 256)
    return Program(function=draw, arguments=arguments, donate=(0,), unsorted=shape.vocab, most_temp=most_temp)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerShape:
    """What scores prompts of `shape`; quantization: of its weights."""

    shape: str
    quantization: str | None = None


SCORERS: Mapping[str, ScorerShape] = MappingProxyType(
    {
        "scorer-llama-3.1-8b": ScorerShape(shape="llama-3.1-8b"),
        "scorer-llama-3.1-8b-w8": ScorerShape(shape="llama-3.1-8b", quantization="int8"),
    }
)


def scorer_program(shape: ScorerShape) -> Program:
    """What picks the vectors of a step of 2,048 tokens and scores them, as one."""
    config = read_config(shape_config(shape.shape))
    graph = build(config, dtype="bfloat16", quantization=shape.quantization)
    of, rows = jax.ShapeDtypeStruct, score_rows("cuda")
    arguments = (
        tuple(of(spec.shape, spec.storage) for spec in graph.specs),
        of((2048, config.embed), jnp.float32),
        of((rows,), jnp.int32),
        of((rows,), jnp.int32),
    )

    def function(leaves: tuple[Array, ...], hidden: Array, places: Array, targets: Array) -> Scored:
        return score(leaves, pick(hidden, places), targets, graphdef=graph)

    # the logits, what the 20 likeliest are looked for in, and the vectors
    most_temp = 4 * rows * (config.vocab + config.vocab // 16 + 3 * config.embed)
    return Program(function=function, arguments=arguments, unsorted=config.vocab, most_temp=most_temp)
