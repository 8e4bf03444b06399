"""Runs prompts through an engine's compiled steps and keeps every logits row that a token is taken from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxpaged.batch import Packer
from jaxpaged.buckets import BucketTable
from jaxpaged.config import CHUNK_ALIGN
from jaxpaged.engine import LLMEngine
from jaxpaged.request import Request, SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig


def record(
    engine: LLMEngine,
    prompts: Mapping[str, Sequence[int]],
    *,
    count: int,
    rows: int,
    tokens: int,
    gap: int,
    buckets: BucketTable | None = None,
) -> dict[tuple[str, int], bytes]:
    """Greedy logits, as the bytes of f32[V], by (prompt's name, tokens before it); `count` a prompt.

    rows, tokens: limits of a step. gap: steps between two arrivals. buckets: those in use, all of the engine's if None.
    """
    longest = engine.config.max_model_len
    config = SchedulerConfig(
        max_rows=rows, max_step_tokens=tokens, max_model_len=longest, chunk_align=CHUNK_ALIGN, prefix_caching=False
    )
    windows = engine.model_config.kv_windows()
    pool = KVPoolSpec(block_size=engine.config.block_size, num_blocks=engine.config.num_blocks, windows=windows)
    scheduler = Scheduler(config, pool, buckets or engine.buckets)
    packer = Packer(
        num_seats=config.num_seats,
        table_width=engine.config.table_width,
        groups=range(len(windows)),
        max_model_len=longest,
        vocab_size=engine.model_config.vocab,
    )
    nothing = np.zeros(engine.config.num_seats + 1, np.int32)  # every token is known to the host
    waiting = list(prompts.items())
    seen: dict[tuple[str, int], bytes] = {}
    step = 0
    while waiting or scheduler.has_work:
        if waiting and step % (gap + 1) == 0:
            name, ids = waiting.pop(0)
            params = SamplingParams(temperature=0, max_tokens=count)
            scheduler.submit(Request(id=name, prompt=tuple(ids), params=params, seed=0, max_tokens=count))
        step += 1
        plan = scheduler.plan()
        if plan is None:
            continue
        runner = engine.runner
        inputs = packer.pack(plan, runner.layout(plan.bucket))
        program = runner.compile(plan.bucket)
        runner.pool, logits, *_ = program(runner.leaves, runner.pool, nothing, inputs.ints)
        scheduler.launch(plan)
        logits = np.asarray(logits)
        for i, row in enumerate(plan.rows):
            if row.samples:
                seen[row.request.id, row.start + row.length] = logits[i].tobytes()
        scheduler.commit(plan, np.argmax(logits, axis=-1).tolist()[: len(plan.rows)])
    assert scheduler.num_preemptions == 0
    return seen
