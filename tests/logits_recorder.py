"""Keeps the logits that an engine's sampler is given, by request and place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxpaged.buckets import Bucket
from jaxpaged.engine import LLMEngine
from jaxpaged.plan import StepPlan

Logits = dict[tuple[str, int], np.ndarray]
"""(request id, tokens before) -> f32[V]; of a place that was computed again, the last ones."""


@contextmanager
def recorded_logits(engine: LLMEngine) -> Iterator[Logits]:
    """What the sampler reads of every step that is launched meanwhile. Each step is waited for."""
    seen: Logits = {}
    latest: list[np.ndarray] = []
    compiled, launched = engine.runner.compile, engine.scheduler.launch

    def compile_(bucket: Bucket) -> Any:
        program = compiled(bucket)

        def step(*arguments: Any) -> Any:
            pool, logits, *rest = program(*arguments)
            latest[:] = [np.array(logits)]
            return pool, logits, *rest

        return step

    def launch(plan: StepPlan) -> None:
        for i, row in enumerate(plan.rows):
            if row.samples:
                seen[row.request.id, row.start + row.length] = latest[0][i]
        launched(plan)

    engine.runner.compile, engine.scheduler.launch = compile_, launch  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield seen
    finally:
        engine.runner.compile, engine.scheduler.launch = compiled, launched  # pyright: ignore[reportAttributeAccessIssue]
