"""What guesses bring: the same prompts with and without them, in turn, on one engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from jaxpaged.assembly import make_scheduler
from jaxpaged.bench.circumstances import circumstances, digits
from jaxpaged.errors import EngineError
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams
from jaxpaged.speculation.config import SpeculationConfig
from jaxpaged.speculation.costs import Costs
from jaxpaged.speculation.counts import SpeculationCounts

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine

Prompts = Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """All prompts served once. seconds: from the first submission to the last token. rows: of requests, summed over
    steps; guesses are not counted. costs: seconds, as the speculator learned them: of a step of one row that did not
    wait for the one before it, of a further row, and of waiting. passes: of a draft model; drawing_s: what it took in
    all, prompts included."""

    answers: tuple[tuple[int, ...], ...]
    seconds: float
    rows: int
    counts: SpeculationCounts | None
    costs: tuple[float, float, float] | None
    passes: int
    drawing_s: float

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.answers))


def measure(
    engine: LLMEngine,
    prompts: Mapping[str, Prompts],
    speculation: SpeculationConfig,
    *,
    batches: Sequence[int],
    rounds: int,
    output_len: int,
    temperature: float,
    startup_s: float,
    progress: Mapping[str, Any],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """The figures as one row, a case for each kind of prompts and each number of requests at a time.

    Each round serves all prompts of a case without guesses and with them, in an order that changes from round to round,
    each time with an empty prefix cache and a speculator that has seen nothing. Speed-ups are of these pairs. Answers
    have `output_len` tokens, seeded by their number. Raises EngineError where guesses changed a token.
    """
    params = [
        SamplingParams(temperature=temperature, seed=number, max_tokens=output_len, ignore_eos=True)
        for number in range(max(map(len, prompts.values())))
    ]
    for of_kind in prompts.values():
        for prompt in of_kind:
            engine.check(prompt, params[0])
    cases: list[dict[str, Any]] = []
    with tqdm(total=len(prompts) * len(batches) * rounds, unit="pair", **progress) as bar:
        for kind, of_kind in prompts.items():
            for batch in batches:
                pairs: list[tuple[Pass, Pass]] = []
                for number in range(rounds):
                    pairs.append(_pair(engine, of_kind, params, speculation, batch, clock, plain_first=number % 2 == 0))
                    bar.update(1)
                cases.append({"kind": kind, "batch": batch, **_case(pairs)})
    return {
        "engine": "jaxpaged",
        "mode": "speculation",
        "speculation": speculation.asked(),
        "output_len": output_len,
        "temperature": temperature,
        "rounds": rounds,
        "cases": cases,
        "compiles_after_ready": engine.metrics.compiles_after_ready,
        **circumstances(engine, startup_s=startup_s),
    }


def sentences(row: Mapping[str, Any]) -> str:
    """The cases in words, a line each."""
    return "\n".join(
        f"{case['kind']}, {case['batch']} at a time: {case['speedup']}x ({case['speedup_least']} to "
        f"{case['speedup_most']}), {case['out_tok_s']} tokens/s against {case['plain_tok_s']}; "
        f"{case['tokens_per_row']} tokens a row, {case['accepted_tokens']} of {case['draft_tokens']} guesses came true"
        for case in row["cases"]
    )


def _pair(
    engine: LLMEngine,
    prompts: Prompts,
    params: Sequence[SamplingParams],
    speculation: SpeculationConfig,
    batch: int,
    clock: Callable[[], float],
    *,
    plain_first: bool,
) -> tuple[Pass, Pass]:
    """Without guesses, and with them."""
    order = (None, speculation) if plain_first else (speculation, None)
    passes = {asked: _serve(engine, prompts, params, asked, batch, clock) for asked in order}
    plain, guessed = passes[None], passes[speculation]
    for number, (tokens, expected) in enumerate(zip(guessed.answers, plain.answers, strict=True)):
        if tokens != expected:
            raise EngineError(
                name="answer", value=number, limit="guesses changed its tokens, which is a mistake of ours"
            )
    return plain, guessed


def _serve(
    engine: LLMEngine,
    prompts: Prompts,
    params: Sequence[SamplingParams],
    speculation: SpeculationConfig | None,
    batch: int,
    clock: Callable[[], float],
) -> Pass:
    engine.step()  # one may be in flight that computes for nobody any more
    engine.require_idle("bench speculation")
    config = replace(engine.config, speculation=speculation)
    windows = engine.model_config.kv_windows()
    engine.scheduler = make_scheduler(config, windows, engine.buckets, clock=clock, draft=engine.draft)
    rows = engine.metrics.step_rows
    coming = list(enumerate(prompts))[::-1]
    answers: dict[str, tuple[int, ...]] = {}
    live = 0
    began_s = clock()
    while coming or engine.has_unfinished:
        while coming and live < batch:
            number, prompt = coming.pop()
            answers[engine.submit(prompt, params[number], output_kind=OutputKind.FINAL_ONLY)] = ()
            live += 1
        for output in engine.step():
            answers[output.request_id] = output.outputs[0].token_ids
            live -= 1
    seconds = clock() - began_s
    speculator = engine.scheduler.speculator
    return Pass(
        answers=tuple(answers.values()),
        seconds=seconds,
        rows=engine.metrics.step_rows - rows,
        counts=speculator and speculator.counts,
        costs=speculator and _learned(speculator.costs),
        passes=speculator.passes if speculator else 0,
        drawing_s=speculator.drawing_s if speculator else 0.0,
    )


def _learned(costs: Costs) -> tuple[float, float, float]:
    one = costs.of(1, waited=False)
    return one, costs.of(2, waited=False) - one, costs.of(1, waited=True) - one


def _case(pairs: Sequence[tuple[Pass, Pass]]) -> dict[str, Any]:
    speedups = [plain.seconds / guessed.seconds for plain, guessed in pairs]
    counts = [guessed.counts for _, guessed in pairs if guessed.counts is not None]
    drafts, drafted = sum(c.drafts for c in counts), sum(c.draft_tokens for c in counts)
    accepted = sum(c.accepted_tokens for c in counts)
    learned = zip(*(guessed.costs for _, guessed in pairs if guessed.costs is not None), strict=True)
    step, row, wait = (digits(statistics.median(seconds) * 1e6) for seconds in learned)
    return {
        "requests": len(pairs[0][0].answers),
        "speedup": round(statistics.median(speedups), 3),
        "speedup_least": round(min(speedups), 3),
        "speedup_most": round(max(speedups), 3),
        "plain_tok_s": digits(statistics.median(plain.num_tokens / plain.seconds for plain, _ in pairs)),
        "out_tok_s": digits(statistics.median(guessed.num_tokens / guessed.seconds for _, guessed in pairs)),
        "tokens_per_row": round(sum(g.num_tokens for _, g in pairs) / max(1, sum(g.rows for _, g in pairs)), 3),
        "drafts": drafts,
        "draft_tokens": drafted,
        "accepted_tokens": accepted,
        "acceptance": round(accepted / max(1, drafted), 3),
        "accepted_at": [sum(places) for places in zip(*(c.accepted_at for c in counts), strict=True)],
        "step_us": step,
        "row_us": row,
        "wait_us": wait,
        "draft_passes": sum(guessed.passes for _, guessed in pairs),
        "draft_share": round(sum(g.drawing_s for _, g in pairs) / sum(g.seconds for _, g in pairs), 3),
    }
