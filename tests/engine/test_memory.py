"""What is chosen where the user left a choice open."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import jax
import pytest
from native_backend import need

from jaxpaged import memory
from jaxpaged.assembly import make_buckets
from jaxpaged.bench.shapes import SHAPES
from jaxpaged.config import EngineConfig, ResolvedConfig
from jaxpaged.device import Device, allocator_share, claim_share, gib, this_device
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError
from jaxpaged.memory import DraftPool, blocks_follow_step, resolve, resolve_combination, resolve_dtype, resolve_kv_dtype
from jaxpaged.models.families import read_config
from jaxpaged.programs import Programs
from jaxpaged.sampling_params import MAX_BIASES, SamplingParams
from jaxpaged.step_memory import StepMemory, estimate
from jaxpaged.weights.random import random_model
from pallas_kernels.backend import Backend
from pallas_kernels.native.library import Library


def device(platform: str, bfloat16_unit: str = "") -> Device:
    return Device(
        platform=platform, name="some", free_bytes=1, total_bytes=1, limit_bytes=1, bfloat16_unit=bfloat16_unit
    )


@pytest.mark.parametrize(
    ("asked", "checkpoint", "on", "dtype", "why"),
    [
        ("auto", "bfloat16", device("cpu"), "float32", "neither AMX nor AVX512-BF16"),
        ("auto", "bfloat16", device("cpu", "AVX512-BF16"), "bfloat16", "AVX512-BF16"),
        ("auto", "float32", device("cpu", "AMX"), "float32", "the checkpoint's"),
        ("bfloat16", "float32", device("cpu"), "bfloat16", "asked for"),
        ("auto", "float16", device("rocm"), "bfloat16", "native"),
        ("auto", "float32", device("cuda"), "float32", "the checkpoint's"),
    ],
)
def test_dtype(asked: str, checkpoint: str, on: Device, dtype: str, why: str) -> None:
    chosen, reason = resolve_dtype(asked, checkpoint, on)
    assert chosen == dtype
    assert why in reason


@pytest.mark.parametrize(
    ("asked", "dtype", "kv_dtype", "why"),
    [
        ("auto", "float32", "float32", "that of the weights"),
        ("auto", "bfloat16", "bfloat16", "that of the weights"),
        ("bf16", "float32", "bfloat16", "asked for"),
        ("int8", "bfloat16", "int8", "asked for; a scale per token and head"),
        ("fp8", "bfloat16", "float8_e4m3fn", "asked for; a scale per token and head"),
    ],
)
def test_kv_dtype(asked: str, dtype: str, kv_dtype: str, why: str) -> None:
    assert resolve_kv_dtype(asked, dtype) == (kv_dtype, why)


GIB = 2**30
MODEL = read_config(
    {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 1000,
        "hidden_size": 1024,
        "intermediate_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
    }
)


def device_of(platform: str, *, gib: float = 100, limit: float = 1.0) -> Device:
    size = int(gib * GIB)
    return Device(
        platform=platform,
        name="some",
        free_bytes=size,
        total_bytes=size,
        limit_bytes=int(limit * size),
        bfloat16_unit="",
    )


def resolved(
    platform: str,
    *,
    gib: float = 100,
    limit: float = 1.0,
    step: StepMemory | None = None,
    draft: DraftPool | None = None,
    **options: Any,
) -> ResolvedConfig:
    on = device_of(platform, gib=gib, limit=limit)
    return resolve(EngineConfig(**options), MODEL, on, dtype="bfloat16", weight_bytes=GIB, step=step, draft=draft)


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("unit", ["AMX", "AVX512-BF16 or -VNNI", ""])
def test_the_table_says_what_multiplies_weights(
    quantization: str | None, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(Backend.NATIVE)
    monkeypatch.setattr(memory, "library", lambda: Library(obstacle="", unit=unit or "AVX", bfloat16=unit, int8=unit))
    for packs in ("packs_weights", "packs_int8_weights"):
        monkeypatch.setattr(memory, packs, lambda: bool(unit))
    reason = resolved("cpu", quantization=quantization).reasons["quantization"]
    assert reason.endswith(f"products of our own by {unit}" if unit else "products by XLA's dots")
    assert resolved("cuda", quantization=quantization).reasons["quantization"].count("products") == (
        quantization is not None
    )


@pytest.mark.parametrize(
    ("kv_cache_dtype", "block_bytes"),
    [("auto", 16 * 2 * 2048 * 2), ("bf16", 16 * 2 * 2048 * 2), ("int8", 16 * 2 * (2048 + 64)), ("fp8", 16 * 2 * 2112)],
)
def test_a_budget_buys_more_tokens_in_fewer_bytes(kv_cache_dtype: str, block_bytes: int) -> None:
    config = resolved("rocm", kv_cache_dtype=kv_cache_dtype, kv_cache_memory_bytes=GIB)
    assert config.num_blocks == GIB // block_bytes


def test_every_group_needs_a_block() -> None:
    types = ["full_attention", "sliding_attention"]
    hybrid = {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 8,
        "layer_types": types,
    }
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = read_config({**hybrid, **sizes, "num_hidden_layers": 2, "max_position_embeddings": 128, "vocab_size": 300})
    assert len(model.kv_groups()) == 2
    config = EngineConfig(num_gpu_blocks_override=2)
    with pytest.raises(
        ConfigError, match=r"num_gpu_blocks_override is 2: it must be at least 3: the null block, and one"
    ):
        resolve(config, model, device("cpu"), dtype="float32", weight_bytes=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"kv_cache_memory_bytes": 4 * GIB},
            r"kv_cache_memory_bytes .*4\.00 GiB.* 3,221,225,472 bytes are free on some",
        ),
        ({"num_gpu_blocks_override": 40_000}, r"num_gpu_blocks_override .*4\.88 GiB.*3\.00 GiB.*at most 24576"),
    ],
)
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_more_kv_cache_than_the_device_has_is_refused(options: dict[str, Any], words: str, platform: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolved(platform, gib=3, block_size=16, **options)
    assert resolved(platform, gib=4.9, block_size=16, num_gpu_blocks_override=40_000).num_blocks == 40_000


def test_no_array_of_bytes_between_2_and_4_gib_on_a_gpu() -> None:
    low = 2 * GIB // (8 * 16 * 128)  # a block's keys in one layer
    asked: tuple[dict[str, Any], ...] = ({"kv_cache_memory_bytes": 14 * GIB}, {"gpu_memory_utilization": 0.15})
    for options in asked:
        config = resolved("cuda", kv_cache_dtype="int8", **options)
        assert config.num_blocks == low == 131_072
        assert "2 GiB of int8 keys" in config.reasons["num_blocks"]
    assert resolved("cuda", kv_cache_dtype="int8", kv_cache_memory_bytes=17 * GIB).num_blocks > 2 * low
    assert resolved("cuda", kv_cache_memory_bytes=14 * GIB).num_blocks == 14 * GIB // (4 * 32 * 1024)
    assert resolved("cpu", kv_cache_dtype="int8", block_size=16, kv_cache_memory_bytes=14 * GIB).num_blocks > low
    with pytest.raises(ConfigError, match="at most 131072 or at least 262145"):
        resolved("rocm", kv_cache_dtype="fp8", num_gpu_blocks_override=200_000)
    for blocks in (131_072, 262_145):
        config = resolved("rocm", kv_cache_dtype="fp8", num_gpu_blocks_override=blocks)
        assert config.num_blocks == blocks


def draft_pool(platform: str, *, layers: int, **options: Any) -> DraftPool:
    """Of a draft model with half the served one's heads."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 1000,
        "hidden_size": 512,
        "intermediate_size": 512,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
    }
    model = replace(read_config(config), one_kv_group=True)
    choice = resolve_combination(EngineConfig(**options), model, device_of(platform), dtype="bfloat16")
    return DraftPool.of(model, device_of(platform), choice)


def test_a_block_costs_what_both_models_keep_in_it() -> None:
    for platform in ("rocm", "cpu"):
        options: dict[str, Any] = {"kv_cache_memory_bytes": GIB, "block_size": 16, "kv_cache_dtype": "bf16"}
        own, draft = 16 * 2 * 2 * 8 * 128 * 2, 16 * 3 * 2 * 4 * 128 * 2
        pool = draft_pool(platform, layers=3, **options)
        assert pool.block_bytes == draft
        assert resolved(platform, **options).num_blocks == GIB // own
        assert resolved(platform, draft=pool, **options).num_blocks == GIB // (own + draft)
    fitting = resolved("cuda", draft=draft_pool("cuda", layers=3)).num_blocks
    assert fitting < resolved("cuda").num_blocks


def test_no_array_of_a_draft_model_has_between_2_and_4_gib_on_a_gpu() -> None:
    low = 2 * GIB // (8 * 16 * 128)
    fp8: dict[str, Any] = {"kv_cache_dtype": "fp8"}
    draft = draft_pool("rocm", layers=1, **fp8)  # its arrays are half as large, so their hazard begins where that ends
    assert draft.hazard == (2 * low, 4 * low + 1)
    with pytest.raises(ConfigError, match=f"at most {2 * low} or at least {4 * low + 1}"):
        resolved("rocm", num_gpu_blocks_override=3 * low, draft=draft, **fp8)
    between = resolved("rocm", draft=draft, kv_cache_memory_bytes=40 * GIB, **fp8)
    assert between.num_blocks == low  # from the one into the other
    assert "2 GiB of float8_e4m3fn keys" in between.reasons["num_blocks"]
    assert resolved("rocm", kv_cache_memory_bytes=40 * GIB, **fp8).num_blocks > 2 * low


def test_a_share_asked_for_on_a_cpu_is_said_to_have_no_effect() -> None:
    silent, told = resolved("cpu"), resolved("cpu", gpu_memory_utilization=0.9)
    assert told.num_blocks == silent.num_blocks
    assert told.reasons["num_blocks"] == (
        f"{silent.reasons['num_blocks']}; gpu_memory_utilization is for GPUs and has no effect here"
    )
    assert resolved("cuda", gpu_memory_utilization=0.9) == resolved("cuda")


@pytest.mark.parametrize(
    ("share", "limit", "bought", "told"),
    [
        (0.9, 1.0, 90, "0.9 x 100.00 GiB"),
        (0.9, 0.75, 75, "the 75.00 GiB of JAX's allocator"),
        (0.5, 0.75, 50, "0.5 x 100.00 GiB"),
    ],
)
def test_a_share_is_of_the_card_and_never_more_than_the_allocator_has(
    share: float, limit: float, bought: int, told: str
) -> None:
    step = StepMemory(num_bytes=3 * GIB, source="memory_analysis")
    config = resolved("cuda", limit=limit, gpu_memory_utilization=share, step=step)
    assert config.reasons["num_blocks"] == f"{told} - weights 1.00 GiB - step 3.00 GiB (memory_analysis)"
    assert config.num_blocks == (bought - 1 - 3) * GIB // (16 * 2 * 2048 * 2)


def test_without_an_analysis_a_step_is_estimated() -> None:
    # 2,048 tokens of 1,024 x 32 bytes, 256 rows of 1,000 x 14, twice 256 x 4,096 x 4: 75.4 MiB
    step = estimate(MODEL, rows=256, tokens=2048, max_model_len=4096)
    assert step == StepMemory(num_bytes=2048 * 32768 + 256 * 14000 + 8 * 256 * 4096, source="estimate")
    assert resolved("cuda") == resolved("cuda", step=step)
    assert resolved("cuda").reasons["num_blocks"] == "0.9 x 100.00 GiB - weights 1.00 GiB - step 75.4 MiB (estimate)"


def test_a_gpu_with_no_room_for_blocks_tells_the_arithmetic() -> None:
    told = r"1\.20 GiB - weights 1\.00 GiB - step 75\.4 MiB \(estimate\): one block takes 131,072 bytes"
    with pytest.raises(ConfigError, match=rf"gpu_memory_utilization is 0\.894: 0\.894 x {told}"):
        resolved("cuda", gib=1.2, gpu_memory_utilization=0.894)


def test_blocks_follow_the_step_on_a_gpu_where_nobody_asks_for_them() -> None:
    assert blocks_follow_step(EngineConfig(), device("rocm"))
    assert not blocks_follow_step(EngineConfig(), device("cpu"))
    assert not blocks_follow_step(EngineConfig(num_gpu_blocks_override=9), device("rocm"))
    assert not blocks_follow_step(EngineConfig(kv_cache_memory_bytes=GIB), device("rocm"))


def as_a_gpu(monkeypatch: pytest.MonkeyPatch, *, free_bytes: int) -> list[str]:
    """Let the engine take this CPU for a GPU of so much memory; the names of programs are listed as they are made."""
    card = Device(
        platform="cuda",
        name="a card",
        free_bytes=free_bytes,
        total_bytes=2 * free_bytes,
        limit_bytes=free_bytes,
        bfloat16_unit="",
    )
    made: list[str] = []
    program = Programs._program

    def spy(self: Programs, name: str, *arguments: Any, **options: Any) -> Any:
        made.append(name)
        return program(self, name, *arguments, **options)

    monkeypatch.setattr("jaxpaged.engine.this_device", lambda: card)
    monkeypatch.setattr(Programs, "_program", spy)
    return made


SMALL: dict[str, Any] = {
    "max_num_seqs": 8,
    "max_num_batched_tokens": 128,
    "max_model_len": 128,
    "attention_backend": "xla",
    "dtype": "float32",
    "compile_cache": "off",
}


def test_blocks_are_what_the_largest_step_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    made = as_a_gpu(monkeypatch, free_bytes=256 * 2**20)
    engine = LLMEngine(EngineConfig(model="tiny-llama", **SMALL), model=random_model(SHAPES["tiny-llama"]))
    names = ("step-128x8", "sampler-8", "pick-128", "score", "logprobs-8")
    found: list[Any] = [engine.runner.programs[name].memory_analysis() for name in names]
    temps = [it.temp_size_in_bytes for it in found]
    given = [it.output_size_in_bytes - it.alias_size_in_bytes for it in found]
    model = engine.model_config
    assert given[0] > 8 * model.vocab * 4 + 128 * model.embed * 4  # the logits, and hidden vectors
    scoring = temps[2] + given[2] + temps[3] + given[3]
    peak = given[0] + max(temps[0], temps[1] + given[1], scoring, temps[4] + given[4])
    words = -(-model.vocab // 32)
    unused = sum(rows * 4 * (128 + 2 * MAX_BIASES + words) for rows in {bucket.rows for bucket in engine.buckets})
    per_block = engine.kv_bytes_per_token * 64
    assert engine.config.num_blocks == (256 * 2**20 - engine.weight_bytes - peak - unused) // per_block
    shown = dict(engine.describe())
    assert shown["KV pool"].endswith("MiB (memory_analysis)")
    assert "the 256.0 MiB of JAX's allocator - weights " in shown["KV pool"]
    assert shown["step memory"] == f"{gib(peak + unused)} (memory_analysis)"
    # only the step is made for two pools, the least one first; its sampler is kept
    assert sorted(made) == sorted([*engine.runner.programs, "step-128x8"])
    assert made.index("pool") > made.index("step-128x8")
    engine.submit([1, 2, 3], SamplingParams(max_tokens=2))
    assert len(engine.step() + engine.step() + engine.step()) == 2
    assert engine.metrics.compiles_after_ready == 0


@pytest.mark.parametrize("options", [{"warmup": False}, {"num_gpu_blocks_override": 20}])
def test_nothing_is_compiled_for_an_analysis_that_nobody_needs(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    made = as_a_gpu(monkeypatch, free_bytes=256 * 2**20)
    engine = LLMEngine(EngineConfig(model="tiny-llama", **SMALL, **options), model=random_model(SHAPES["tiny-llama"]))
    assert sorted(made) == sorted(engine.runner.programs)
    told = "(estimate)" if "warmup" in options else "(memory_analysis)"
    assert dict(engine.describe())["step memory"].endswith(told)
    assert engine.config.num_blocks == 20 or "(estimate)" in engine.config.reasons["num_blocks"]


@pytest.mark.parametrize("backend", ["xla", "native"])
def test_what_a_step_takes_does_not_depend_on_the_number_of_blocks(backend: str) -> None:
    need(backend)
    model = random_model(SHAPES["tiny-llama"])
    options = {**SMALL, "attention_backend": backend, "num_gpu_blocks_override": 20}
    config = resolve(EngineConfig(**options), model.config, this_device(), dtype="float32", weight_bytes=0)
    found = [
        Programs(model, replace(config, num_blocks=blocks)).step_memory(make_buckets(config)) for blocks in (3, 2000)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, 0.75),
        ({"XLA_CLIENT_MEM_FRACTION": "0.9"}, 0.9),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, 0.5),
        ({"XLA_CLIENT_MEM_FRACTION": "much"}, 0.75),
        ({"XLA_CLIENT_MEM_FRACTION": "2"}, 0.75),
    ],
)
def test_the_share_of_the_allocator(environment: dict[str, str], share: float) -> None:
    assert allocator_share(environment) == share


def test_a_share_that_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.3")
    claim_share(0.9)
    assert "XLA_CLIENT_MEM_FRACTION" not in os.environ
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "")
    jax.devices()
    claim_share(0.9)  # too late: what is claimed now would not be what the allocator holds
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == ""
    monkeypatch.setattr("jaxpaged.device._jax_runs", lambda: False)
    claim_share(0.9)
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.9"


def test_what_others_hold_is_not_given_again() -> None:
    held = Device(
        platform="cuda", name="some", free_bytes=20 * GIB, total_bytes=100 * GIB, limit_bytes=90 * GIB, bfloat16_unit=""
    )
    config = resolve(EngineConfig(), MODEL, held, dtype="bfloat16", weight_bytes=GIB)
    assert 16 * GIB < config.num_blocks * 16 * 2 * 2048 * 2 < 20 * GIB
