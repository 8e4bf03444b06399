"""How a device's memory is shared between weights, steps and KV blocks.

Owns the arithmetic that turns an `EngineConfig` into a `ResolvedConfig`; every figure it chose comes with its reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from jaxpaged.combinations import KV_DTYPES, Choice, check_combination
from jaxpaged.config import CHUNK_ALIGN, EngineConfig, ResolvedConfig, default_compile_cache
from jaxpaged.demand import KVDemand
from jaxpaged.device import Device, gib
from jaxpaged.errors import ConfigError
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.kv import bytes_per_block, pool_specs
from jaxpaged.step_memory import StepMemory, estimate
from pallas_kernels.backend import Backend, choose_backend, native_obstacle
from pallas_kernels.native.library import library, packs_f32_weights, packs_int8_weights, packs_weights
from pallas_kernels.pool_spec import default_block_size

_CPU_SHARE = 0.3  # of the free memory of the machine, for the KV cache
# arrays of 1-byte elements above the first and up to the second: offsets of 32 bits fail
_HAZARD_BYTES = (2**31, 2**32)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPool:
    """What a draft model keeps in each block beside the served model. hazard: numbers of blocks strictly between these
    two cannot be."""

    block_bytes: int
    hazard: tuple[int, int]

    @classmethod
    def of(cls, model: ModelConfig, device: Device, choice: Choice) -> DraftPool:
        """Of a draft model with these options."""
        size, dtype = choice.block_size, choice.kv_cache_dtype
        block_bytes = bytes_per_block(model, Backend(choice.backend), block_size=size, dtype=dtype)
        return cls(block_bytes=block_bytes, hazard=_hazard_blocks(model, device, choice))


def resolve_dtype(asked: str, checkpoint: str, device: Device) -> tuple[Literal["float32", "bfloat16"], str]:
    """The type of weights, and why."""
    if asked != "auto":
        return cast('Literal["float32", "bfloat16"]', asked), "asked for"
    if device.platform != "cpu":
        return ("float32", "the checkpoint's") if checkpoint == "float32" else ("bfloat16", "the GPU's native type")
    if checkpoint == "float32":
        return "float32", "the checkpoint's"
    if device.bfloat16_unit:
        return "bfloat16", f"the checkpoint's; this CPU multiplies it natively ({device.bfloat16_unit})"
    return "float32", "this CPU has neither AMX nor AVX512-BF16: bfloat16 would be slower"


def resolve_kv_dtype(asked: str, dtype: str) -> tuple[str, str]:
    """The type of the pool (see `PoolSpec.dtype`) for weights of `dtype`, and why."""
    if asked == "auto":
        return dtype, "that of the weights"
    kv_dtype = KV_DTYPES[asked]
    return kv_dtype, "asked for" if kv_dtype == "bfloat16" else "asked for; a scale per token and head"


def _explain_weights(choice: Choice, dtype: str) -> str:
    """How the weights are held, and what multiplies them."""
    if not choice.quantization:
        return f"not quantised; {_explain_products(choice, dtype)}" if choice.platform == "cpu" else "not quantised"
    if choice.platform != "cpu":
        return f"{choice.quantization}, a scale per output; widened to {dtype} in products"
    products = _explain_products(choice, choice.quantization)
    return f"{choice.quantization}, a scale per output; activations too, one per token; {products}"


def _explain_products(choice: Choice, dtype: str) -> str:
    return f"products of our own by {library().product(dtype)}" if choice.packed else "products by XLA's dots"


def resolve_backend(
    config: EngineConfig, model: ModelConfig, device: Device, *, kv_cache_dtype: str
) -> tuple[Backend, str]:
    """Which kernels serve, and why. Raises ConfigError where the native ones are asked for and cannot be had."""
    pool = {"head_dim": model.head_dim, "block_size": config.block_size, "kv_dtype": kv_cache_dtype}
    asked = config.attention_backend
    if asked == Backend.NATIVE and (obstacle := native_obstacle(device.platform, **pool)):
        raise ConfigError(
            name="attention_backend", value=asked, limit=f"it cannot be had: {obstacle}", fix="Use auto, or mend that"
        )
    return choose_backend(device.platform, asked, **pool)


def resolve_combination(config: EngineConfig, model: ModelConfig, device: Device, *, dtype: str) -> Choice:
    """What the options come to before memory is counted. Raises ConfigError for options that do not go together."""
    kv_cache_dtype = resolve_kv_dtype(config.kv_cache_dtype, dtype)[0]
    backend, _ = resolve_backend(config, model, device, kv_cache_dtype=kv_cache_dtype)
    choice = Choice(
        platform=device.platform,
        compute_capability=device.compute_capability,
        backend=str(backend),
        kv_cache_dtype=kv_cache_dtype,
        block_size=config.block_size or default_block_size(backend),
        head_dim=model.head_dim,
        quantization=config.quantization,
        packed=backend == Backend.NATIVE and _packs(config.quantization, dtype),
    )
    check_combination(choice)
    return choice


def _packs(quantization: str | None, dtype: str) -> bool:
    """Whether the native library multiplies such weights here."""
    if quantization:
        return packs_int8_weights()
    return packs_f32_weights() if dtype == "float32" else packs_weights()


def resolve(
    config: EngineConfig,
    model: ModelConfig,
    device: Device,
    *,
    dtype: str,
    weight_bytes: int,
    step: StepMemory | None = None,
    draft: DraftPool | None = None,
) -> ResolvedConfig:
    """Make every choice that `config` left open. device: as it is with the weights loaded. step: what the largest step
    takes; None: an estimate. draft: of a draft model, whose weights are among `weight_bytes`.

    Raises ConfigError where the choices cannot hold together.
    """
    reasons: dict[str, str] = {}
    on_cpu = device.platform == "cpu"
    choice = resolve_combination(config, model, device, dtype=dtype)
    block_size = choice.block_size
    kv_cache_dtype, reasons["kv_cache_dtype"] = resolve_kv_dtype(config.kv_cache_dtype, dtype)
    reasons["quantization"] = _explain_weights(choice, dtype)
    _, reasons["attention_backend"] = resolve_backend(config, model, device, kv_cache_dtype=kv_cache_dtype)
    max_model_len = _max_model_len(config, model, reasons)
    rows = config.max_num_seqs or (32 if on_cpu else 256)
    tokens = config.max_num_batched_tokens or (512 if on_cpu else 2048)
    if tokens < rows + CHUNK_ALIGN:
        raise ConfigError(
            name="max_num_batched_tokens",
            value=tokens,
            limit=f"beside max_num_seqs={rows} rows a step needs room for {CHUNK_ALIGN} tokens of a prompt",
            fix=f"Raise it to {rows + CHUNK_ALIGN} or lower max_num_seqs",
        )
    step = step or estimate(model, rows=rows, tokens=tokens, max_model_len=max_model_len)
    demand = KVDemand(windows=model.kv_windows(), block_size=block_size, chunk=tokens)
    num_blocks, reasons["num_blocks"] = _num_blocks(
        config, model, device, choice, weight_bytes, step, draft, wanted=rows * demand.blocks(max_model_len) + 1
    )
    if on_cpu and config.gpu_memory_utilization is not None:
        reasons["num_blocks"] += "; gpu_memory_utilization is for GPUs and has no effect here"
    fitting = demand.longest(num_blocks - 1, at_most=max_model_len)
    if config.max_model_len is None and fitting < max_model_len:
        max_model_len = fitting
        reasons["max_model_len"] = f"what the KV cache holds; the model's is {model.max_positions:,}"
    cache = None if config.compile_cache == "off" else Path(config.compile_cache or default_compile_cache())
    return ResolvedConfig(
        model=Path(config.model),
        tokenizer=Path(config.tokenizer or config.model),
        dtype=cast('Literal["float32", "bfloat16"]', dtype),
        quantization=choice.quantization,
        kv_cache_dtype=choice.kv_cache_dtype,
        max_model_len=max_model_len,
        max_num_seqs=rows,
        max_num_batched_tokens=tokens,
        block_size=block_size,
        num_blocks=num_blocks,
        enable_prefix_caching=config.enable_prefix_caching,
        attention_backend=choice.backend,
        platform=device.platform,
        seed=config.seed,
        compile_cache=cache,
        warmup=config.warmup,
        early_start=config.early_start,
        bundle=None if config.bundle is None else Path(config.bundle),
        async_scheduling=config.async_scheduling,
        reasons=reasons,
        speculation=config.speculation,
    )


def blocks_follow_step(config: EngineConfig, device: Device) -> bool:
    """Whether the number of blocks depends on what a step takes: on a GPU, where neither it nor its bytes are asked
    for. On a CPU the pool takes a share of the free memory that leaves steps the rest."""
    asked = config.num_gpu_blocks_override is not None or config.kv_cache_memory_bytes is not None
    return device.platform != "cpu" and not asked


def _max_model_len(config: EngineConfig, model: ModelConfig, reasons: dict[str, str]) -> int:
    if config.max_model_len is None:
        reasons["max_model_len"] = "the model's"
        return model.max_positions
    if config.max_model_len > model.max_positions:
        raise ConfigError(
            name="max_model_len",
            value=config.max_model_len,
            limit=f"the model's positions end at {model.max_positions}",
            fix=f"Use at most {model.max_positions}, or a checkpoint with rope scaling",
        )
    reasons["max_model_len"] = "asked for"
    return config.max_model_len


def _num_blocks(
    config: EngineConfig,
    model: ModelConfig,
    device: Device,
    choice: Choice,
    weight_bytes: int,
    step: StepMemory,
    draft: DraftPool | None,
    *,
    wanted: int,
) -> tuple[int, str]:
    """The number of blocks, and why. wanted: for every row at the longest context, and the null block."""
    backend, block_size = Backend(choice.backend), choice.block_size
    per_block = bytes_per_block(model, backend, block_size=block_size, dtype=choice.kv_cache_dtype)
    hazards = [_hazard_blocks(model, device, choice)]
    if draft is not None:
        per_block += draft.block_bytes
        hazards = sorted([*hazards, draft.hazard], reverse=True)
    least = 1 + len(model.kv_groups())
    if (asked := config.num_gpu_blocks_override) is not None:
        if asked < least:
            limit = f"it must be at least {least}: the null block, and one for each KV group"
            raise ConfigError(name="num_gpu_blocks_override", value=asked, limit=limit)
        _check_fits("num_gpu_blocks_override", asked, asked * per_block, per_block, device)
        for low, high in hazards:
            if low < asked < high:
                raise ConfigError(
                    name="num_gpu_blocks_override",
                    value=asked,
                    limit=f"a layer's {choice.kv_cache_dtype} keys would take more than 2 and at most 4 GiB, which the "
                    "GPU kernels cannot address",
                    fix=f"Use at most {low} or at least {high}",
                )
        return asked, "asked for"
    if (asked_bytes := config.kv_cache_memory_bytes) is not None:
        _check_fits("kv_cache_memory_bytes", asked_bytes, asked_bytes, 1, device)
        blocks, why = asked_bytes // per_block, "kv_cache_memory_bytes"
        name, value = "kv_cache_memory_bytes", asked_bytes
    elif device.platform == "cpu":
        budget = int(device.free_bytes * _CPU_SHARE)
        blocks = min(wanted, budget // per_block)
        why = "every row at the longest context" if blocks == wanted else f"{_CPU_SHARE:.0%} of the free memory"
        name, value = "free memory", device.free_bytes
    else:
        limits = (
            (int(device.total_bytes * config.memory_share), f"{config.memory_share:g} x {gib(device.total_bytes)}"),
            (device.limit_bytes, f"the {gib(device.limit_bytes)} of JAX's allocator"),
            # others of this process may hold some
            (weight_bytes + device.free_bytes, f"the {gib(weight_bytes + device.free_bytes)} that are free"),
        )
        share, told = min(limits, key=lambda limit: limit[0])
        blocks = (share - weight_bytes - step.num_bytes) // per_block
        why = f"{told} - weights {gib(weight_bytes)} - step {gib(step.num_bytes)} ({step.source})"
        name, value = "gpu_memory_utilization", config.memory_share
    for low, high in hazards:  # from the largest down: one may lead into another
        if not low < blocks < high:
            continue
        blocks, why = low, f"2 GiB of {choice.kv_cache_dtype} keys a layer: the GPU kernels address no 2 to 4"
    if blocks < least:
        raise ConfigError(
            name=name,
            value=value,
            limit=f"{why}: one block takes {per_block:,} bytes, and at least {least} are needed "
            "(the null block, and one for each KV group)",
            fix="Give the KV cache more memory or use a smaller block_size",
        )
    return int(blocks), why


def _check_fits(name: str, value: int, num_bytes: int, unit_bytes: int, device: Device) -> None:
    """Raise ConfigError where a KV cache of `num_bytes` is more than is free."""
    if num_bytes > device.free_bytes:
        raise ConfigError(
            name=name,
            value=value,
            limit=f"the KV cache would take {num_bytes:,} bytes ({gib(num_bytes)}), and beside the weights "
            f"{device.free_bytes:,} bytes are free on {device.name} ({gib(device.free_bytes)})",
            fix=f"Use at most {device.free_bytes // unit_bytes}",
        )


def _hazard_blocks(model: ModelConfig, device: Device, choice: Choice) -> tuple[int, int]:
    """Numbers of blocks strictly between these two cannot be: see `_HAZARD_BYTES`."""
    backend = Backend(choice.backend)
    spec = pool_specs(model, backend, num_blocks=1, block_size=choice.block_size, dtype=choice.kv_cache_dtype)[0]
    if device.platform == "cpu" or spec.storage.itemsize != 1:
        return 0, 0
    block_bytes = math.prod(spec.v_shape)
    return _HAZARD_BYTES[0] // block_bytes, _HAZARD_BYTES[1] // block_bytes + 1
