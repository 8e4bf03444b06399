"""Prompts through the whole engine, and the logits at every place that its steps computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from families.paged import poisoned

from jaxpaged.engine import LLMEngine
from jaxpaged.llm import LLM
from jaxpaged.models.decoder import unflatten
from jaxpaged.plan import StepPlan
from jaxpaged.request import SamplingParams
from jaxpaged.tiny import TINY_MODEL

OUTPUT = 64  # tokens of every answer
_STEP = 96  # tokens of a step: long prompts are cut
_ROUND = 256  # the number of scored tokens is padded to a multiple, so that few programs are compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """tokens: the answers. places: of every prompt, i32[n], where the engine computed; logits: f32[n, V], there.

    cached: tokens of prompts that came from the prefix cache.
    """

    tokens: tuple[list[int], ...]
    places: tuple[np.ndarray, ...]
    logits: tuple[np.ndarray, ...]
    cached: int


class _Recorder:
    """Keeps what each step of an engine computed, and for which places of which requests."""

    def __init__(self, engine: LLMEngine) -> None:
        self.hidden: list[Any] = []
        self.rows: list[list[tuple[str, int, int]]] = []  # (request, first place, places)
        runner, scheduler = engine.runner, engine.scheduler
        compile_step, launch = runner.compile, scheduler.launch

        def compile_recorded(bucket: Any) -> Any:
            program = compile_step(bucket)

            def step(*arguments: Any) -> Any:
                results = program(*arguments)
                self.hidden.append(results[-1])
                return results

            return step

        def launch_recorded(plan: StepPlan) -> None:
            self.rows.append([(row.request.id, row.start, row.length) for row in plan.rows])
            launch(plan)

        runner.compile, scheduler.launch = compile_recorded, launch_recorded  # pyright: ignore[reportAttributeAccessIssue]


def run_engine(folder: Path, prompts: Sequence[Sequence[int]], *, backend: str, cache: Path) -> EngineRun:
    """64 greedy tokens after every prompt, float32: batched, in chunks, over a pool whose unused slots hold NaN.

    cache: folder of compiled programs.
    """
    llm = LLM(
        model=str(folder),
        tokenizer=str(TINY_MODEL),  # token ids go in and out; only the text is meaningless
        dtype="float32",
        max_model_len=320,
        max_num_seqs=4,
        max_num_batched_tokens=_STEP,
        num_gpu_blocks_override=512,
        block_size=16,
        attention_backend=backend,
        compile_cache=str(cache),
        warmup=False,
    )
    engine = llm.engine
    assert backend in ("auto", engine.config.attention_backend)
    engine.scheduler.buckets = engine.buckets.base  # one program for chunks, one for single tokens
    engine.runner.pool = jax.tree.map(poisoned, engine.runner.pool)
    recorder = _Recorder(engine)
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True)
    outputs = llm.generate([list(prompt) for prompt in prompts], params, use_tqdm=False)
    assert engine.metrics.preemptions == 0
    hidden, owners = _flat(recorder)
    logits = _logits(engine, hidden)
    names = [output.request_id for output in outputs]
    mine = [[i for i, (owner, _) in enumerate(owners) if owner == name] for name in names]
    return EngineRun(
        tokens=tuple(list(output.outputs[0].token_ids) for output in outputs),
        places=tuple(np.array([owners[i][1] for i in rows], np.int32) for rows in mine),
        logits=tuple(logits[rows] for rows in mine),
        cached=engine.metrics.cached_tokens,
    )


def _flat(recorder: _Recorder) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """f32[n, E] of all computed tokens, padding left out, and the (request, place) of each."""
    pieces, owners = [], []
    for hidden, rows in zip(recorder.hidden, recorder.rows, strict=True):
        pieces.append(np.asarray(hidden)[: sum(length for *_, length in rows)])
        owners += [(name, start + i) for name, start, length in rows for i in range(length)]
    return np.concatenate(pieces), owners


def _logits(engine: LLMEngine, hidden: np.ndarray) -> np.ndarray:
    """f32[n, V] of hidden vectors f32[n, E]."""
    graph = engine.runner.model.graphdef
    count = len(hidden)
    padded = np.pad(hidden, ((0, -count % _ROUND), (0, 0)))
    head = jax.jit(lambda leaves, rows: unflatten(graph, leaves).logits(rows))
    return np.asarray(head(engine.runner.leaves, padded))[:count]
