"""An engine around a model that no folder holds: token ids in, token ids out."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpaged.bench.shapes import SHAPES
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ParameterError, PromptError, TokenizerError
from jaxpaged.request import SamplingParams
from jaxpaged.weights import random
from jaxpaged.weights.random import random_model

OPTIONS = EngineConfig(
    model="tiny-llama", max_num_seqs=2, max_num_batched_tokens=66, warmup=False, compile_cache="off", max_model_len=64
)


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    return LLMEngine(OPTIONS, model=random_model(SHAPES["tiny-llama"], dtype="float32"))


def test_it_speaks_token_ids(engine: LLMEngine) -> None:
    engine.submit([1, 2, 3], SamplingParams(temperature=0, max_tokens=4, logprobs=1))
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    last = outputs[-1].outputs[0]
    assert (len(last.token_ids), last.text, last.finish_reason) == (4, "", "length")
    assert dict(engine.describe())["model"] == "tiny-llama (LlamaForCausalLM)"
    assert dict(engine.describe())["dtype"] == "float32: the given model's"


def test_it_refuses_text(engine: LLMEngine) -> None:
    with pytest.raises(PromptError, match="prompt is 'hello': it is text, and this engine has no tokenizer"):
        engine.submit("hello")
    with pytest.raises(TokenizerError, match="no chat template either"):
        engine.tokenizer.apply_chat_template([{"role": "user", "content": "hello"}])
    with pytest.raises(ParameterError, match=r"stop is .*no tokenizer. Use stop_token_ids"):
        engine.submit([1], SamplingParams(stop="x"))
    assert not engine.has_unfinished


def test_large_parameters_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "_MOST_AT_ONCE", 1000)
    shape = {**SHAPES["tiny-llama"], "vocab_size": 251}  # a prime, which no number of pieces divides
    table = np.asarray(random_model(shape, dtype="float32").leaves[0])
    assert table.shape == (251, 64)
    assert len(np.unique(table)) > 0.99 * table.size
    assert float(np.std(table)) == pytest.approx(1 / 8, rel=0.05)
