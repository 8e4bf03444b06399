"""A text through the engine's own steps: logits at every place, the last ones computed one token at a time.

Scheduler, packer and compiled programs are those that serve; a step's drawn token is replaced by the text's next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from tqdm import tqdm

from jaxpaged.assembly import make_scheduler
from jaxpaged.batch import Packer
from jaxpaged.engine import LLMEngine
from jaxpaged.models.decoder import Graph, unflatten
from jaxpaged.outputs import OutputKind
from jaxpaged.request import Request, SamplingParams
from jaxpaged.scheduler import Scheduler

_HEAD_ROWS = 64  # places whose logits are computed at once


class Replay:
    """Replays texts through an engine that has nothing else to do."""

    def __init__(self, engine: LLMEngine) -> None:
        engine.require_idle("verify")
        self._engine = engine
        self._head = jax.jit(partial(_head, graph=engine.runner.model.graphdef))
        self._steps: dict[str, int] = {"chunks": 0, "single tokens": 0}

    @property
    def steps(self) -> dict[str, int]:
        """How many steps computed chunks of the text, and how many one token of it."""
        return dict(self._steps)

    def logits(self, ids: Sequence[int], *, singles: int, progress: dict[str, Any]) -> np.ndarray:
        """f32[n - 1, V] at every place of a text of n tokens but its last, which nothing follows.

        ids: at most `max_model_len` of the engine. singles: tokens at the end that are computed one a step.
        """
        engine, count = self._engine, len(ids) - 1
        singles = min(singles, count - 1)
        found = np.empty((count, engine.model_config.vocab), np.float32)
        with tqdm(total=count, unit="token", **progress) as bar:
            for start, hidden in self._hidden(ids[:count], singles):
                for first in range(0, len(hidden), _HEAD_ROWS):
                    rows = hidden[first : first + _HEAD_ROWS]
                    padded = np.zeros((_HEAD_ROWS, rows.shape[1]), np.float32)
                    padded[: len(rows)] = rows
                    logits = np.asarray(self._head(engine.runner.leaves, padded))[: len(rows)]
                    found[start + first : start + first + len(rows)] = logits
                bar.update(len(hidden))
        return found

    def _hidden(self, ids: Sequence[int], singles: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first place, f32[n, E]) of every step over `ids`, all but `singles` of them as a prompt."""
        engine, runner = self._engine, self._engine.runner
        scheduler, packer = self._own_scheduler(), self._own_packer()
        prompt = tuple(ids[: len(ids) - singles])
        params = SamplingParams(temperature=0.0, max_tokens=singles + 1, ignore_eos=True)
        scheduler.submit(Request(id="text", prompt=prompt, params=params, seed=0, max_tokens=singles + 1))
        known = np.zeros(engine.config.num_seats + 1, np.int32)  # the host tells every token
        while scheduler.has_work:
            plan = scheduler.plan()
            assert plan is not None, "one request alone cannot wait"
            inputs = packer.pack(plan, runner.layout(plan.bucket))
            runner.pool, *_, hidden = runner.compile(plan.bucket)(runner.leaves, runner.pool, known, inputs.ints)
            scheduler.launch(plan)
            (row,) = plan.rows
            end = row.start + row.length
            self._steps["single tokens" if row.length == 1 else "chunks"] += 1
            yield row.start, np.asarray(hidden)[: row.length]
            scheduler.commit(plan, [ids[end] if end < len(ids) else 0])

    def _own_scheduler(self) -> Scheduler:
        """With an empty prefix cache and no guesses: every token of the text is computed, one by one at its end."""
        engine = self._engine
        config = replace(engine.config, enable_prefix_caching=False, speculation=None)
        return make_scheduler(config, engine.model_config.kv_windows(), engine.buckets, clock=time.monotonic)

    def _own_packer(self) -> Packer:
        engine, config = self._engine, self._engine.config
        return Packer(
            num_seats=config.num_seats,
            table_width=config.table_width,
            groups=range(len(engine.model_config.kv_groups())),
            max_model_len=config.max_model_len,
            vocab_size=engine.model_config.vocab,
        )


def greedy_answers(engine: LLMEngine, prompts: Sequence[Sequence[int]], *, tokens: int) -> list[list[int]]:
    """The engine's greedy answers of `tokens` tokens to all prompts at once, end tokens or not."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    names = [engine.submit(list(prompt), params, output_kind=OutputKind.FINAL_ONLY) for prompt in prompts]
    answers: dict[str, list[int]] = {}
    while engine.has_unfinished:
        for output in engine.step():
            answers[output.request_id] = list(output.outputs[0].token_ids)
    return [answers[name] for name in names]


def _head(leaves: tuple[Array, ...], hidden: Array, *, graph: Graph) -> Array:
    """f32[n, V] of hidden f32[n, E]."""
    return unflatten(graph, leaves).logits(hidden)
