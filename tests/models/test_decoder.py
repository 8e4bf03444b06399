"""The decoder's declaration of its parameters, its step context, and what its compiled step holds in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpaged.models.attention
import jaxpaged.models.decoder
import jaxpaged.models.feed_forward
import jaxpaged.models.layers
import jaxpaged.models.moe
from jaxpaged.models.decoder import StepContext, build, flatten, make_context, unflatten
from jaxpaged.models.families import read_config
from jaxpaged.models.kv import KVPool, bytes_per_block, make_pool
from jaxpaged.weights.load import LoadedModel
from jaxpaged.weights.random import random_model
from pallas_kernels.backend import Backend

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
EXPERTS = CONFIG | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "sliding_window": None}
BIASED = CONFIG | {"architectures": ["Qwen2ForCausalLM"]}


def context_of(
    q_lens: list[int], kv_lens: list[int], tables: list[list[int]], *, tokens: int, config: dict[str, Any] = CONFIG
) -> StepContext:
    return make_context(
        jnp.asarray(np.cumsum([0, *q_lens]), jnp.int32),
        jnp.asarray(kv_lens, jnp.int32),
        (jnp.asarray(tables, jnp.int32),) * len(read_config(config).kv_groups()),
        config=read_config(config),
        num_tokens=tokens,
        block_size=4,
        backend=Backend.REFERENCE,
    )


def test_context_of_a_mixed_step() -> None:
    context = context_of([1, 1, 3, 0], [5, 1, 7, 0], [[3, 9], [7, 0], [2, 5], [0, 0]], tokens=8)
    assert context.positions.tolist() == [4, 0, 4, 5, 6, 0, 0, 0]
    assert context.real.tolist() == [True] * 5 + [False] * 3
    assert context.slots[0].tolist() == [36, 28, 20, 21, 22, 0, 0, 0]
    assert len(context.works) == 1


def test_context_of_a_decode_step() -> None:
    context = context_of([1, 1, 0, 0], [5, 8, 0, 0], [[3, 9], [7, 2], [0, 0], [0, 0]], tokens=4)
    assert context.positions.tolist() == [4, 7, 0, 0]
    assert context.slots[0].tolist() == [36, 11, 0, 0]


def test_context_without_any_token() -> None:
    context = context_of([0, 0], [0, 0], [[0], [0]], tokens=2)
    assert context.slots[0].tolist() == [0, 0]
    assert context.real.tolist() == [False, False]


def test_layers_with_two_windows_get_two_works() -> None:
    asked = BIASED | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    context = context_of([2], [2], [[1]], tokens=4, config=asked)
    assert [work.window for work in context.works] == [None, 8]


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 59.8665181883831), ("bfloat16", 59.75)])
def test_gemma_rounds_its_scale_to_the_type_of_the_weights(dtype: str, scale: float) -> None:
    gemma = CONFIG | {"architectures": ["GemmaForCausalLM"], "hidden_size": 3584, "head_dim": 16, "vocab_size": 8}
    graph = build(read_config(gemma | {"num_hidden_layers": 1}), dtype=dtype)
    decoder = unflatten(graph, [jnp.ones(spec.shape, spec.storage) for spec in graph.specs])
    embedded = decoder.embed(jnp.asarray([3], jnp.int32), jnp.zeros(1, jnp.int32))
    np.testing.assert_allclose(embedded, scale, rtol=1e-7)


@pytest.mark.parametrize("config", [CONFIG, EXPERTS, BIASED])
def test_every_parameter_declares_its_axes(config: dict[str, Any]) -> None:
    model = read_config(config)
    sizes = {
        "vocab": model.vocab,
        "embed": model.embed,
        "heads": model.heads * model.head_dim,
        "kv_heads": model.kv_heads,
        "ffn": model.ffn,
        "experts": 8,
    }
    seen = set()
    for spec in build(model, dtype="bfloat16").specs:
        assert len(spec.axes) == len(spec.shape)
        for axis, size in zip(spec.axes, spec.shape, strict=True):
            assert axis is None or sizes[axis] == size, spec
        seen |= set(spec.axes)
    assert seen - {None} == set(sizes) - (set() if config is EXPERTS else {"experts"})


def test_vectors_and_routers_stay_float32() -> None:
    specs = build(read_config(EXPERTS), dtype="bfloat16").specs
    exact = {re.sub(r"\d+", "0", spec.path) for spec in specs if spec.dtype == np.float32}
    assert exact == {
        "layers.0.attention_norm.weight",
        "layers.0.ffn_norm.weight",
        "layers.0.moe.router.weight",
        "norm.weight",
    }


def test_a_graph_is_a_hashable_value() -> None:
    one, two = (build(read_config(CONFIG), dtype="float32") for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != build(read_config(CONFIG), dtype="bfloat16")


def test_flatten_and_unflatten_are_inverse() -> None:
    model = random_model(CONFIG)
    graph, leaves = flatten(unflatten(model.graphdef, model.leaves))
    assert graph.specs == model.graphdef.specs
    assert all(a is b for a, b in zip(leaves, model.leaves, strict=True))
    assert len(leaves) == 3 + 2 * 6  # fused: six leaves a layer


def test_specs_and_leaves_go_together() -> None:
    model = random_model(EXPERTS | {"num_hidden_layers": 12})
    decoder = unflatten(model.graphdef, model.leaves)
    for spec, leaf in zip(model.graphdef.specs, model.leaves, strict=True):
        found: Any = decoder
        for part in spec.path.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        assert found[...] is leaf or np.array_equal(found[...], leaf), spec.path


def test_a_random_model_depends_on_its_seed_alone() -> None:
    one, two, other = (random_model(BIASED, seed=seed, dtype="bfloat16") for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one.leaves, two.leaves, strict=True))
    embed, other_embed = one.leaves[0], other.leaves[0]
    assert embed.dtype == jnp.bfloat16
    assert not np.array_equal(embed, other_embed)
    assert float(np.std(np.asarray(embed, np.float32))) == pytest.approx(64**-0.5, rel=0.05)


def lower(model: LoadedModel, pool: KVPool, *, tokens: int, rows: int, width: int, block_size: int) -> Any:
    def step(
        leaves: tuple[jax.Array, ...], pool: KVPool, ids: jax.Array, cu: jax.Array, lens: jax.Array, tables: jax.Array
    ) -> tuple[jax.Array, KVPool]:
        context = make_context(
            cu, lens, tables, config=model.config, num_tokens=tokens, block_size=block_size, backend=Backend.XLA
        )
        decoder = unflatten(model.graphdef, leaves)
        hidden, pool = decoder(ids, context, pool)
        return decoder.logits(hidden[:rows]), pool

    shapes = ((tokens,), (rows + 1,), (rows,), (len(model.config.kv_groups()), rows, width))
    inputs = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes]
    return jax.jit(step, donate_argnums=1).lower(model.leaves, pool, *inputs).compile()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_step_copies_neither_the_tables_nor_the_pool(dtype: str, tied: bool) -> None:
    sizes = {"vocab_size": 40_000, "hidden_size": 128, "num_hidden_layers": 1, "tie_word_embeddings": tied}
    model = random_model(CONFIG | sizes, dtype=dtype)
    pool = make_pool(model.config, Backend.XLA, num_blocks=2000, block_size=64, dtype=dtype)
    pool_bytes = pool[0].nbytes
    assert pool_bytes == 2000 * bytes_per_block(model.config, Backend.XLA, block_size=64, dtype=dtype)
    memory = lower(model, pool, tokens=8, rows=8, width=4, block_size=64).memory_analysis()
    logits = 8 * 40_000 * 4
    assert memory.alias_size_in_bytes >= pool_bytes
    assert memory.temp_size_in_bytes < 2 * logits + 2**20  # a table is 10 MB in bfloat16, a pool 32 MB and more


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_of_two_groups_write_to_one_array_without_a_copy(dtype: str) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    model = random_model(BIASED | windows | {"num_hidden_layers": 4, "hidden_size": 128}, dtype=dtype)
    assert (len(model.config.kv_groups()), model.config.kv_arrays()) == (2, 2)
    pool = make_pool(model.config, Backend.XLA, num_blocks=2000, block_size=64, dtype=dtype)
    pool_bytes = sum(layer.nbytes for layer in pool)
    assert pool_bytes == 2000 * bytes_per_block(model.config, Backend.XLA, block_size=64, dtype=dtype)
    for tokens in (8, 64):
        memory = lower(model, pool, tokens=tokens, rows=8, width=4, block_size=64).memory_analysis()
        assert memory.alias_size_in_bytes >= pool_bytes
        assert memory.temp_size_in_bytes < 2**22  # an array of the pool is 16 MiB in bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_copies_no_experts(dtype: str) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_local_experts": 16, "num_hidden_layers": 1}
    model = random_model(EXPERTS | sizes, dtype=dtype)
    pool = make_pool(model.config, Backend.XLA, num_blocks=20, block_size=64, dtype=dtype)
    memory = lower(model, pool, tokens=8, rows=8, width=4, block_size=64).memory_analysis()
    one_expert = 3 * 256 * 1024 * 4  # a tile reads one; all of them are 25 MB in bfloat16, 50 MB in float32
    assert memory.temp_size_in_bytes < 2 * one_expert + 2**20


def test_experts_get_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes_seen: list[np.ndarray] = []
    original = jaxpaged.models.moe.grouped_matmul

    def spy(x: jax.Array, w: jax.Array, sizes: jax.Array, **options: Any) -> jax.Array:
        sizes_seen.append(np.asarray(sizes))
        return original(x, w, sizes, **options)

    monkeypatch.setattr(jaxpaged.models.moe, "grouped_matmul", spy)
    model = random_model(EXPERTS)
    context = context_of([5], [5], [[1, 2]], tokens=12, config=EXPERTS)
    moe = unflatten(model.graphdef, model.leaves).layers[0].moe
    assert moe is not None
    out = moe(jax.random.normal(jax.random.key(0), (12, 64)), context)
    assert [int(sizes.sum()) for sizes in sizes_seen] == [5 * 2, 5 * 2]
    assert out[:5].any(axis=1).all()
    assert not out[5:].any()


def test_the_decoder_knows_no_family() -> None:
    models = jaxpaged.models
    for module in (models.decoder, models.layers, models.attention, models.feed_forward, models.moe):
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        assert not re.search(r"llama|qwen|mi[sx]tral|gemma|phi", source, re.IGNORECASE)
