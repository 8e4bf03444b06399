"""How many KV blocks forks save, counted, not timed: `PYTHONPATH=.:server:tests python -m fork_saving`.

Sampling: the scheduler with made-up tokens, on lengths drawn from exponential distributions whose means are those of
the traces in the paper on PagedAttention (Kwon et al., 2023, figure 11). Beams: the bundled model on held-out text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from host_model import make_request

from jaxpaged.buckets import BucketTable
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.scheduler import Scheduler, SchedulerConfig

MEANS = {"Alpaca": (19.31, 58.45), "ShareGPT": (161.31, 337.99)}
"""Of prompts and answers, in tokens."""
COUNTS = (2, 4, 6, 10)
BLOCK = 16
LONGEST = 2048
Trace = list[tuple[int, list[int]]]
"""Of each prompt its length, and that of each answer."""


@dataclass(slots=True)
class Held:
    """Blocks in a pool, step by step: those that are there, and how many the tables name."""

    blocks: list[int] = field(default_factory=list)
    named: list[int] = field(default_factory=list)

    def add(self, scheduler: Scheduler) -> None:
        self.blocks.append(scheduler._cache.pool.num_referenced)
        self.named.append(scheduler._cache.num_held)

    @property
    def peak(self) -> int:
        return max(self.blocks)

    @property
    def saved(self) -> float:
        """Share of the blocks that tables name which sharing saves, over all steps."""
        return 1 - sum(self.blocks) / sum(self.named)


def trace(name: str, prompts: int, answers: int, *, seed: int = 0) -> Trace:
    rng, (mean_prompt, mean_answer) = random.Random(seed), MEANS[name]

    def length(mean: float) -> int:
        return min(LONGEST // 2, max(1, round(rng.expovariate(1 / mean))))

    return [(length(mean_prompt), [length(mean_answer) for _ in range(answers)]) for _ in range(prompts)]


def sample(lengths: Trace, *, forks: bool, prefix_caching: bool) -> Held:
    """All prompts at once, in a pool that holds them all: as forks, or every answer as a request of its own."""
    rows = sum(len(answers) for _, answers in lengths)
    config = SchedulerConfig(
        max_rows=rows, max_step_tokens=rows + 2048, max_model_len=LONGEST, prefix_caching=prefix_caching
    )
    buckets = BucketTable.build(max_rows=rows, max_step_tokens=rows + 2048, min_rows=1)
    pool = KVPoolSpec(block_size=BLOCK, num_blocks=1 + rows * LONGEST // BLOCK)
    scheduler = Scheduler(config, pool, buckets)
    for i, (prompt, answers) in enumerate(lengths):
        tokens = [1000 * i + j for j in range(prompt)]
        made = [make_request(f"{i}/{j}", tokens, max_tokens=answer) for j, answer in enumerate(answers)]
        for group in [made] if forks else [[one] for one in made]:
            scheduler.submit(group[0], group[1:])
    held, drawn = Held(), 0
    while scheduler.has_work:
        plan = scheduler.plan()
        assert plan is not None
        scheduler.launch(plan)
        held.add(scheduler)
        drawn += len(plan.rows)
        scheduler.commit(plan, range(10**6 + drawn, 10**6 + drawn + len(plan.rows)))  # no two are alike
    assert scheduler.num_preemptions == 0
    return held


def search(width: int, *, prompts: int, max_tokens: int) -> Held:
    """Beam searches of the bundled model, all at once."""
    from jaxpaged.beams import BeamSearchParams
    from jaxpaged.config import EngineConfig
    from jaxpaged.engine import LLMEngine
    from jaxpaged.outputs import OutputKind
    from jaxpaged.tiny.corpus import read_corpus

    rows = prompts * width
    engine = LLMEngine(
        EngineConfig(
            dtype="float32",
            block_size=BLOCK,
            max_model_len=256,
            max_num_seqs=rows,
            max_num_batched_tokens=rows + 256,
            num_gpu_blocks_override=1 + rows * 16,
            compile_cache="off",
        )
    )
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:60_000])
    params = BeamSearchParams(beam_width=width, max_tokens=max_tokens, ignore_eos=True)
    for i, (length, _) in enumerate(trace("Alpaca", prompts, 1)):
        engine.submit(text[200 * i : 200 * i + length], params, output_kind=OutputKind.FINAL_ONLY)
    held = Held()
    while engine.has_unfinished:
        engine.step()
        if engine.has_unfinished:
            held.add(engine.scheduler)
    return held


def main(tell: Callable[[str], object] = print) -> None:
    tell("| trace | n | peak: forks | separate, prefix cache | separate | saved at the peak | mean share saved |")
    tell("|---|---:|---:|---:|---:|---:|---:|")
    for name in MEANS:
        for count in COUNTS:
            lengths = trace(name, 16, count)
            forks = sample(lengths, forks=True, prefix_caching=True)
            cached = sample(lengths, forks=False, prefix_caching=True)
            separate = sample(lengths, forks=False, prefix_caching=False)
            saved = 1 - forks.peak / separate.peak
            peaks = f"{forks.peak} | {cached.peak} | {separate.peak}"
            tell(f"| {name} | {count} | {peaks} | {saved:.1%} | {forks.saved:.1%} |")
    tell("")
    tell("| beams | blocks at the peak | named by the tables then | mean share saved |")
    tell("|---:|---:|---:|---:|")
    for width in COUNTS:
        held = search(width, prompts=8, max_tokens=58)
        named = held.named[held.blocks.index(held.peak)]
        tell(f"| {width} | {held.peak} | {named} | {held.saved:.1%} |")


if __name__ == "__main__":
    main()
