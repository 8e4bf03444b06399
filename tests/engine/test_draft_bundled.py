"""The bundled model with its draft model, by the option itself: memory, programs, bundles, and what is refused."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drafters import AnyPrice

from jaxpaged.assembly import make_scheduler
from jaxpaged.bundle import draft_folder, write_bundle
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError
from jaxpaged.inventory import kv_bytes_per_block
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams
from jaxpaged.tiny import TINY_DRAFT, TINY_MODEL
from jaxpaged.tiny.corpus import read_corpus
from jaxpaged.warmup import no_compile_cache
from jaxpaged.weights.random import random_model

SIZES: dict[str, Any] = {"max_num_seqs": 8, "max_model_len": 128, "max_num_batched_tokens": 128, "compile_cache": "off"}
DRAWN = {"method": "draft_model", "num_speculative_tokens": 3}
POOL_BYTES = 4_000_000


@pytest.fixture(scope="module")
def engine() -> Iterator[LLMEngine]:
    options = EngineConfig(
        dtype="float32", kv_cache_memory_bytes=POOL_BYTES, speculative_config=DRAWN, early_start=True, **SIZES
    )
    with no_compile_cache():  # for the bundle; some are compiled while it serves
        yield LLMEngine(options)


def answers(engine: LLMEngine, *, temperature: float) -> list[tuple[int, ...]]:
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:20_000])
    ids: list[str] = []
    for i in range(6):
        params = SamplingParams(temperature=temperature, seed=i, max_tokens=24, ignore_eos=True)
        ids.append(engine.submit(text[i * 90 : i * 90 + 70], params, output_kind=OutputKind.FINAL_ONLY))
    done: dict[str, tuple[int, ...]] = {}
    while engine.has_unfinished:
        done |= {output.request_id: output.outputs[0].token_ids for output in engine.step()}
    return [done[name] for name in ids]


def new_scheduler(engine: LLMEngine, *, drafts: bool) -> None:
    engine.steps.in_flight.clear()
    config = engine.config if drafts else replace(engine.config, speculation=None)
    windows = engine.model_config.kv_windows()
    engine.scheduler = make_scheduler(config, windows, engine.buckets, clock=time.monotonic, draft=engine.draft)
    if (speculator := engine.scheduler.speculator) is not None:
        speculator.costs, speculator._draft_costs = AnyPrice(), None


def test_programs_that_come_later_are_taken_by_both_models(engine: LLMEngine) -> None:
    """First of all tests: answers while there are only the largest shapes, then all of them."""
    assert engine.draft is not None
    assert len(engine.scheduler.buckets) < len(engine.buckets)
    first = answers(engine, temperature=0.0)
    while engine._early is not None:
        engine.step()
        time.sleep(0.05)
    assert engine.scheduler.buckets == engine.draft.buckets == engine.buckets
    engine.scheduler.reset_prefix_cache()
    assert answers(engine, temperature=0.0) == first


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("overlapped", [True, False])
def test_answers_are_those_without_and_many_guesses_come_true(
    engine: LLMEngine, temperature: float, overlapped: bool
) -> None:
    config = engine.config
    engine.config = replace(config, async_scheduling=overlapped)
    new_scheduler(engine, drafts=False)
    plain = answers(engine, temperature=temperature)
    new_scheduler(engine, drafts=True)
    before = engine.metrics.draft_s
    assert answers(engine, temperature=temperature) == plain
    speculator = engine.scheduler.speculator
    assert speculator is not None
    assert speculator.counts.accepted_tokens > 0.3 * speculator.counts.draft_tokens > 3
    assert engine.metrics.draft_s > before
    assert engine.metrics.compiles_after_ready == 0
    engine.config = config


def test_both_models_share_one_budget(engine: LLMEngine) -> None:
    draft = engine.draft
    assert draft is not None
    model = draft.runner.model
    per_block = kv_bytes_per_block(engine.config, engine.model_config) + kv_bytes_per_block(
        draft.runner.config, model.config
    )
    assert engine.config.num_blocks == POOL_BYTES // per_block
    held = sum(array.nbytes for runner in (engine.runner, draft.runner) for array in _arrays(runner.pool))
    assert held == engine.config.num_blocks * per_block <= POOL_BYTES
    assert engine.weight_bytes == sum(leaf.nbytes for leaf in (*engine.runner.leaves, *model.leaves))
    row = dict(engine.describe())["draft model"]
    assert row.startswith("draft (LlamaForCausalLM): weights 3.5 MiB, and ")
    assert row.endswith(" beside the KV pool")


def _arrays(pool: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(pool)


def test_a_start_from_a_bundle_compiles_neither_models_programs(engine: LLMEngine, tmp_path: Path) -> None:
    assert engine.draft is not None
    for folder, runner in ((tmp_path / "b", engine.runner), (draft_folder(tmp_path / "b"), engine.draft.runner)):
        write_bundle(folder, runner.programs, fingerprint=runner.fingerprint, config=runner.config)
    options = EngineConfig(bundle=str(tmp_path / "b"), compile_cache="off", speculative_config=DRAWN)
    other = LLMEngine(options)
    assert other.metrics.compiles_at_start == 0
    new_scheduler(engine, drafts=False)
    new_scheduler(other, drafts=True)
    assert answers(other, temperature=0.0) == answers(engine, temperature=0.0)
    assert other.metrics.compiles_after_ready == 0
    shutil.rmtree(draft_folder(tmp_path / "b"))
    with pytest.raises(ConfigError, match=r"draft.*No such file"):
        LLMEngine(options)


def refused(folder: Path, **options: Any) -> ConfigError:
    asked = {"model": str(folder), "num_speculative_tokens": 3}
    with pytest.raises(ConfigError) as caught:
        LLMEngine(EngineConfig(speculative_config=asked, **SIZES), **options)
    assert caught.value.name == "speculative_config.model"
    return caught.value


def test_a_model_of_other_tokens_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    shutil.copy(TINY_DRAFT / "config.json", tmp_path)
    tokenizer = json.loads((TINY_MODEL / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = "def", "self"
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    error = refused(tmp_path)
    assert "vocabularies differ" in error.limit
    assert repr(first) in error.limit
    assert repr(second) in error.limit


def test_a_model_of_fewer_tokens_is_refused_where_no_tokenizer_tells_them(tmp_path: Path) -> None:
    config = json.loads((TINY_DRAFT / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 4000}))
    served = random_model(json.loads((TINY_MODEL / "config.json").read_text()))
    error = refused(tmp_path, model=served)
    assert error.limit == "its vocabulary has 4,000 tokens, that of the served model 4,096"
