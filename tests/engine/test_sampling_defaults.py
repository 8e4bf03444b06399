"""The offline faces draw by the model's own defaults where nobody says how."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from jaxpaged.async_engine import AsyncEngine
from jaxpaged.llm import LLM
from jaxpaged.request import SamplingParams
from jaxpaged.tiny import TINY_MODEL

PROMPT = "import "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, with a say in how it is drawn from: in this way, greedily, and to its own end tokens."""
    folder = tmp_path_factory.mktemp("model")
    for path in TINY_MODEL.iterdir():
        if path.suffix in (".json", ".safetensors") and path.name != "generation_config.json":
            (folder / path.name).symlink_to(path)
    told = {"temperature": 0.0, "repetition_penalty": 1.2, "max_new_tokens": 1, "eos_token_id": 7, "num_beams": 2}
    (folder / "generation_config.json").write_text(json.dumps(told))
    return folder


def small(folder: Path | None, **options: Any) -> LLM:
    sizes = {"dtype": "float32", "max_model_len": 64, "max_num_seqs": 8, "max_num_batched_tokens": 128}
    model = None if folder is None else str(folder)
    return LLM(model, warmup=False, num_gpu_blocks_override=12, compile_cache="off", **sizes, **options)


def test_generate_without_parameters_uses_the_models(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "jaxpaged"):
        llm = small(folder)
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["num_beams=2"]
    params = SamplingParams(temperature=0.0, repetition_penalty=1.2, max_tokens=1)
    assert llm.get_default_sampling_params() == params
    [said], [unsaid] = llm.generate(PROMPT, params, use_tqdm=False), llm.generate(PROMPT, use_tqdm=False)
    assert unsaid.outputs[0].token_ids == said.outputs[0].token_ids
    assert len(unsaid.outputs[0].token_ids) == 1
    assert "temperature 0.0" in dict(llm.engine.describe())["sampling defaults"]
    assert 7 in llm.engine.tokenizer.eos_ids

    async def stream() -> tuple[int, ...]:
        async with AsyncEngine(llm.engine) as engine:
            outputs = [output async for output in engine.generate(PROMPT)]
        return outputs[-1].outputs[0].token_ids

    assert asyncio.run(stream()) == unsaid.outputs[0].token_ids


def test_another_folder_and_an_override_reach_the_engine(folder: Path) -> None:
    llm = small(None, generation_config=str(folder), override_generation_config={"max_new_tokens": 3})
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.0, repetition_penalty=1.2, max_tokens=3)
    assert 7 in llm.engine.tokenizer.eos_ids
    assert llm.engine.sampling_defaults.max_tokens_limit == 3
    plain = small(None)
    assert plain.get_default_sampling_params() == SamplingParams()
    assert 7 not in plain.engine.tokenizer.eos_ids
