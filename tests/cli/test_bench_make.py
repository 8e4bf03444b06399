"""`jaxpaged bench make-model` and `make-trace`: what they write can be read, by this engine and by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxpaged_server.cli import main

from jaxpaged.bench.shapes import shape_config
from jaxpaged.bench.trace import read_trace
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.weights.load import load_model
from jaxpaged.weights.random import random_model

SMALL = {"vocab_size": 4096, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}


def small_shape(folder: Path) -> Path:
    path = folder / "shape.json"
    path.write_text(json.dumps({**shape_config("qwen2.5-0.5b"), **SMALL, "num_attention_heads": 4}))
    return path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_folder_holds_the_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    shape, folder = small_shape(tmp_path), tmp_path / "model"
    words = ["--shape", str(shape), "--output", str(folder), "--dtype", dtype, "--seed", "7", "--quiet"]
    assert main(["bench", "make-model", *words]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["dtype"], made["parameters"]) == (dtype, 4096 * 32 + 32 * 3 + 64 * 32 + 64 + 32 * 32 + 3 * 32 * 48)
    assert (folder / "tokenizer.json").read_bytes() == (Path(TINY_MODEL) / "tokenizer.json").read_bytes()
    loaded, drawn = load_model(folder, dtype=dtype), random_model(json.loads(shape.read_text()), seed=7, dtype=dtype)
    assert loaded.config.dtype == dtype
    for mine, theirs in zip(loaded.leaves, drawn.leaves, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def test_transformers_reads_the_folder(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "model"
    assert main(["bench", "make-model", "--shape", str(small_shape(tmp_path)), "--output", str(folder), "--quiet"]) == 0
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, told = loaded
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    assert AutoTokenizer.from_pretrained(folder).decode(AutoTokenizer.from_pretrained(folder)("def f")["input_ids"])


def test_a_trace_is_the_same_again_and_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "later.jsonl")]
    for path, more in zip(paths, ([], [], ["--request-rate", "2"]), strict=True):
        assert main(["bench", "make-trace", "--output", str(path), *more]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(t["requests"], t["in_tokens"], t["out_tokens"]) for t in told] == [(32, 6243, 4723)] * 3
    assert paths[0].read_bytes() == paths[1].read_bytes()
    once, later = read_trace(paths[0]), read_trace(paths[2])
    assert [r.prompt_ids for r in once] == [r.prompt_ids for r in later]
    assert {r.arrival_s for r in once} == {0.0}
    assert later[-1].arrival_s == pytest.approx(told[2]["last_arrival_s"], abs=1e-4)
    assert max(token for r in once for token in r.prompt_ids) < 4096


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("make-model --shape llama-9b --output x", "is 'llama-9b': it is neither a file nor one of"),
        (
            "make-model --shape tiny-llama --output x",
            "its vocabulary of 256 is smaller than the bundled tokenizer's 4096",
        ),
        ("make-model --shape llama-150m --output .", "there is something already"),
        ("make-trace --output x --num-requests 0", "--num-requests is 0: it must be at least 1"),
        ("make-trace --output /dev/null/x", "Not a directory"),
    ],
)
def test_what_cannot_be_is_one_line(
    line: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert main(["bench", *line.split()]) == 2
    assert told in capsys.readouterr().err
