"""Draft models for tests: made of a model in memory, in place of a folder, and stand-ins without arrays."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxpaged.config import EngineConfig
from jaxpaged.draft_runner import DraftRunner
from jaxpaged.engine import LLMEngine
from jaxpaged.loaded_draft import LoadedDraft, in_one_group, widest_group
from jaxpaged.memory import DraftPool, resolve_combination
from jaxpaged.weights.load import LoadedModel


def draft_of(engine: LLMEngine, model: LoadedModel) -> DraftRunner:
    """A draft model for an engine."""
    config = engine.config
    options = replace(EngineConfig(), block_size=config.block_size, attention_backend=config.attention_backend)
    choice = resolve_combination(options, model.config, engine.device, dtype=model.dtype)
    group, longest = widest_group(engine.model_config.kv_windows())
    model = in_one_group(model, packed=choice.packed)
    draft = LoadedDraft(
        name="draft",
        model=model,
        choice=choice,
        group=group,
        longest=longest,
        pool=DraftPool.of(model.config, engine.device, choice),
    )
    return DraftRunner(draft, engine.runner, engine.buckets)


def perturbed(model: LoadedModel, *, share: float, seed: int = 0) -> LoadedModel:
    """The same model with noise on its weights, of `share` of their own deviation."""
    keys = jax.random.split(jax.random.key(seed), len(model.leaves))
    noisy: list[jax.Array] = []
    for key, leaf in zip(keys, model.leaves, strict=True):
        noise = share * jnp.std(leaf) * jax.random.normal(key, leaf.shape, jnp.float32)
        noisy.append((leaf + noise).astype(leaf.dtype))
    return replace(model, leaves=tuple(noisy))
