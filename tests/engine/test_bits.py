"""I-BITS: the logits of a row are bitwise equal whatever its neighbours, place, bucket and chunk boundaries.

Out of scope by design: decode against recomputed prefill of the same token (another order of summation), so there is
no preemption here, and no prompt whose last chunk is a single token.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from jaxpaged.batch import pack
from jaxpaged.config import CHUNK_ALIGN, EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.request import Request, SamplingParams
from jaxpaged.scheduler import KVGroupSpec, Scheduler, SchedulerConfig
from jaxpaged.tiny.corpus import read_corpus

OUTPUT = 6


class Recorder:
    """Steps like the engine, but keeps every logits row that a token is taken from."""

    def __init__(self, engine: LLMEngine) -> None:
        self.engine = engine

    def run(self, prompts: dict[str, list[int]], *, rows: int, tokens: int, gap: int) -> dict[tuple[str, int], bytes]:
        """Greedy logits by (prompt's name, position); `gap` steps lie between two arrivals."""
        engine = self.engine
        config = SchedulerConfig(
            max_rows=rows, max_step_tokens=tokens, max_model_len=512, chunk_align=CHUNK_ALIGN, prefix_caching=False
        )
        blocks = KVGroupSpec(block_size=engine.config.block_size, num_blocks=engine.config.num_blocks)
        scheduler = Scheduler(config, [blocks], engine.buckets)
        waiting = list(prompts.items())
        seen: dict[tuple[str, int], bytes] = {}
        step = 0
        while waiting or scheduler.has_work:
            if waiting and step % (gap + 1) == 0:
                name, ids = waiting.pop(0)
                params = SamplingParams(temperature=0, max_tokens=OUTPUT)
                scheduler.submit(Request(id=name, prompt=tuple(ids), params=params, seed=0, max_tokens=OUTPUT))
            step += 1
            plan = scheduler.plan()
            if plan is None:
                continue
            layout = engine.runner.layout(plan.bucket)
            inputs = pack(plan, layout, max_model_len=512, vocab_size=engine.model_config.vocab)
            runner = engine.runner
            program = runner.compile(plan.bucket)
            runner.pool, logits, _ = program(runner.leaves, runner.pool, inputs.ints, inputs.floats)
            logits = np.asarray(logits)
            for i, row in enumerate(plan.rows):
                if row.samples:
                    seen[row.request.id, row.start + row.count] = logits[i].tobytes()
            scheduler.commit(plan, np.argmax(logits, axis=-1).tolist()[: len(plan.rows)])
        assert scheduler.num_preemptions == 0
        return seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_bits(dtype: str) -> None:
    engine = LLMEngine(
        EngineConfig(
            dtype=dtype,  # pyright: ignore[reportArgumentType]
            max_model_len=512,
            max_num_seqs=16,
            max_num_batched_tokens=256,
            num_gpu_blocks_override=129,
            compile_cache="off",
            warmup=False,
        )
    )
    recorder = Recorder(engine)
    rng = random.Random(3)
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:40_000])
    lengths = [2, 17, 63, 64, 66, 100, 127, 128, 200, 260]
    prompts = {f"p{n}": text[(start := rng.randrange(len(text) - 300)) : start + n] for n in lengths}
    alone: dict[tuple[str, int], bytes] = {}
    for name, ids in prompts.items():
        alone |= recorder.run({name: ids}, rows=1, tokens=256, gap=0)
    assert len(alone) == len(prompts) * OUTPUT
    for shape in (
        {"rows": 16, "tokens": 256, "gap": 0},
        {"rows": 10, "tokens": 64, "gap": 1},
        {"rows": 3, "tokens": 128, "gap": 2},
        {"rows": 5, "tokens": 192, "gap": 4},
    ):
        order = list(prompts.items())
        rng.shuffle(order)
        together = recorder.run(dict(order), **shape)
        assert together.keys() == alone.keys()
        different = [place for place in alone if together[place] != alone[place]]
        assert not different, f"{shape}: {different}"
