"""The same weights and requests through this engine and through transformers: static batches, continuous batching."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.4")  # torch needs the rest of the GPU

import json

import jax
import numpy as np
from comparison import answer_ids, engine_options, requests, same_beginning

from jaxpaged.bench.shapes import SHAPES
from jaxpaged.bench.throughput import measure
from jaxpaged.bench.trace import TraceRequest
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.models.families import FAMILIES
from jaxpaged.weights.load import LoadedModel
from jaxpaged.weights.mapping import expected_tensors
from jaxpaged.weights.random import random_model

_STATIC_BATCH = 8
_MOST_S = 25  # for one run of continuous batching


def compare(*, shape: str, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """After each run of the interleaved rounds a row with the medians so far. All in one type: bfloat16 on a GPU."""
    import torch

    on_gpu = jax.devices()[0].platform != "cpu"
    dtype = "bfloat16" if on_gpu else "float32"
    model = random_model(SHAPES[shape], dtype=dtype)
    trace = requests(8 if quick else 32, vocab=model.config.vocab, quick=quick)
    engine = LLMEngine(EngineConfig(model=shape, **engine_options(quick=quick)), model=model)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), SHAPES[shape], model)
        theirs = _load(folder, "cuda" if on_gpu else "cpu", getattr(torch, dtype))
    runs: dict[str, Callable[[], float]] = {
        "jaxpaged": lambda: measure(engine, trace, startup_s=0, progress={"disable": True})["out_tok_s"],
        "static": lambda: _static(theirs, trace),
        "continuous": lambda: _continuous(theirs, trace),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    same = _same_tokens(engine, theirs, trace[0])  # and what is loaded at first use is loaded
    for name in [*runs] * rounds:
        if name in failed:
            continue
        try:
            found[name].append(runs[name]())
        except Exception as error:  # theirs may not have it on this machine; the others go on
            failed[name] = f"{type(error).__name__}: {error}"
        medians = {name: statistics.median(values) for name, values in found.items() if values}
        ratio = medians["jaxpaged"] / medians["static"] if {"jaxpaged", "static"} <= set(medians) else None
        yield {
            "id": "E8",
            "value": ratio,
            "shape": shape,
            "dtype": dtype,
            "requests": len(trace),
            "in_tokens": sum(len(request.prompt_ids) for request in trace),
            "out_tokens": sum(request.max_tokens for request in trace),
            "static_batch": _STATIC_BATCH,
            "same_tokens": same,
            "out_tok_s": medians,
            "rounds": found,
            "failed": failed,
            "versions": _versions(),
        }


def write_folder(folder: Path, shape: Any, model: LoadedModel) -> None:
    """config.json and model.safetensors of a model, as transformers reads them."""
    from safetensors.numpy import save_file

    tensors = {}
    parameters = [
        np.asarray(leaf).view(spec.dtype) for spec, leaf in zip(model.graphdef.specs, model.leaves, strict=True)
    ]
    rules = FAMILIES[model.config.architecture].rules(model.config)
    for name, target in expected_tensors(model.graphdef.specs, rules).items():
        values = target.view(parameters[target.parameter]).reshape(target.shape)
        tensors[name] = np.ascontiguousarray(values.astype(model.dtype))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps({**shape, "torch_dtype": model.dtype, "use_cache": True}, default=dict)
    )


def _load(folder: str, device: str, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.eval().to(device)


def _same_tokens(engine: LLMEngine, theirs: Any, request: TraceRequest) -> str:
    """How many tokens of an answer are the same before the first that differs: that they are the same weights."""
    import torch

    prompt = torch.tensor([request.prompt_ids], device=theirs.device)
    out = theirs.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=_greedy(request.max_tokens)
    )
    return same_beginning(answer_ids(engine, request), out[0, prompt.shape[1] :].tolist())


def _greedy(steps: int) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False, max_new_tokens=steps, min_new_tokens=steps, pad_token_id=0, eos_token_id=None
    )


def _static(model: Any, trace: Sequence[TraceRequest]) -> float:
    """Output tokens a second in batches in order of the trace, each run to its longest answer."""
    import torch

    began_s = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(trace), _STATIC_BATCH):
            part = trace[first : first + _STATIC_BATCH]
            width, steps = max(len(r.prompt_ids) for r in part), max(r.max_tokens for r in part)
            ids = torch.zeros((len(part), width), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for i, request in enumerate(part):
                ids[i, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
                mask[i, width - len(request.prompt_ids) :] = 1
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=_greedy(steps)
            )
            out.cpu()  # waits for the device
    return sum(r.max_tokens for r in trace) / (time.perf_counter() - began_s)


def _continuous(model: Any, trace: Sequence[TraceRequest]) -> float:
    """Output tokens a second of transformers' own continuous batching."""
    from transformers import GenerationConfig

    config = GenerationConfig(do_sample=False, max_new_tokens=1, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(generation_config=config)
    manager.start()
    try:
        began_s = time.perf_counter()
        for number, request in enumerate(trace):
            manager.add_request(list(request.prompt_ids), request_id=f"r{number}", max_new_tokens=request.max_tokens)
        produced = 0
        left = len(trace)
        while left:
            result = manager.get_result(timeout=1)
            if result is None:
                if not manager.is_running() or time.perf_counter() - began_s > _MOST_S:
                    raise RuntimeError("its thread ended, or gave nothing for too long")
                continue
            if result.is_finished():
                if result.error:
                    raise RuntimeError(result.error)
                produced += len(result.generated_tokens)
                left -= 1
        return produced / (time.perf_counter() - began_s)
    finally:
        manager.stop(block=True, timeout=5)


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "jax": jax.__version__}
