"""A model of longrope on both sides of the context of its training, as docs/DECISIONS.md has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.case import SIZES, Case
from families.evidence import TOLERANCE, relative_error
from families.folder import make_folder, oracle_logits
from families.paged import paged_logits

from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.weights.load import load_model
from pallas_kernels.backend import Backend

pytestmark = pytest.mark.families

SHORT, LONG = [1.0 + 0.1 * i for i in range(12)], [1.5 + 0.7 * i for i in range(12)]
CASE = Case(
    name="phi3_both",
    architecture="Phi3ForCausalLM",
    config=SIZES
    | {
        "original_max_position_embeddings": 128,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": SHORT,
            "long_factor": LONG,
        },
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phi3_both")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Any:
    return make_folder(folder, CASE)


def error(oracle: Any, folder: Path, lengths: Sequence[int], context: int | None) -> float:
    """Of all logits of prompts of these lengths, of the model read for this context."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, CASE.vocab, length).tolist() for length in lengths]
    found = paged_logits(load_model(folder, dtype="float32", context=context), prompts, Backend.XLA, block_size=64)
    wanted = [oracle_logits(oracle, prompt) for prompt in prompts]
    return max(relative_error(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


def test_short_contexts_alone_are_those_of_transformers(oracle: Any, folder: Path) -> None:
    assert error(oracle, folder, (128, 77), 128) < TOLERANCE


def test_long_contexts_are_those_of_transformers(oracle: Any, folder: Path) -> None:
    assert error(oracle, folder, (170, 129), None) < TOLERANCE


def test_short_contexts_of_an_engine_of_long_ones_are_not(oracle: Any, folder: Path) -> None:
    assert error(oracle, folder, (128, 77), None) > 100 * TOLERANCE


@pytest.mark.parametrize(("asked", "factors", "longest"), [(128, SHORT, 128), (129, LONG, 129), (None, LONG, 512)])
def test_the_engine_reads_the_model_for_its_longest_context(
    oracle: Any, folder: Path, asked: int | None, factors: list[float], longest: int
) -> None:
    assert oracle is not None  # with it, the folder
    config = EngineConfig(
        model=str(folder), tokenizer=str(TINY_MODEL), max_model_len=asked, max_num_seqs=8, warmup=False
    )
    engine = LLMEngine(config)
    assert engine.config.max_model_len == longest
    for model in (engine.model_config, engine.runner.model.config):
        assert model.ropes()[0].factors == tuple(factors)


def test_a_model_that_was_read_for_short_contexts_serves_no_long_ones(oracle: Any, folder: Path) -> None:
    assert oracle is not None
    model = load_model(folder, dtype="float32", context=128)
    with pytest.raises(ConfigError, match="the model's positions end at 128"):
        LLMEngine(EngineConfig(max_model_len=129, max_num_seqs=8, warmup=False), model=model)
