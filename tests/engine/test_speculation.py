"""Speculation is lossless: with guesses, right or wrong, every request is answered bit for bit what it is without.

A drafted token is a row of an ordinary step, so in the same cache and chunks even log probabilities are the same bits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from draft_models import draft_of, perturbed
from drafters import AnyPrice, OracleDrafter, eager_speculator
from greedy_oracle import TIE
from native_backend import need
from scipy.stats import chisquare

from jaxpaged.assembly import make_scheduler
from jaxpaged.config import CHUNK_ALIGN, EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.outputs import OutputKind
from jaxpaged.request import Request, RequestOutput, SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.speculation.config import SpeculationConfig
from jaxpaged.speculation.speculator import Speculator
from jaxpaged.tiny.corpus import read_corpus
from jaxpaged.weights.random import random_model

pytestmark = pytest.mark.long

BLOCK, ROWS, LONGEST, OUTPUT = 16, 12, 256, 24
NGRAM = SpeculationConfig(method="ngram", num_speculative_tokens=4, prompt_lookup_min=1, prompt_lookup_max=3)
SUFFIX = SpeculationConfig(method="suffix", num_speculative_tokens=6, suffix_decoding_max_spec_factor=2.0)
VARIANTS = [
    ("native", "float32"),
    ("native", "bfloat16"),
    ("xla", "float32"),
    pytest.param(("xla", "bfloat16"), marks=pytest.mark.long),
]
Job = tuple[tuple[int, ...], SamplingParams]


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def engine(request: pytest.FixtureRequest) -> LLMEngine:
    backend, dtype = request.param
    need(backend)
    return LLMEngine(
        EngineConfig(
            dtype=dtype,
            attention_backend=backend,
            max_model_len=LONGEST,
            max_num_seqs=ROWS,
            max_num_batched_tokens=256,
            num_gpu_blocks_override=129,
            block_size=BLOCK,
            compile_cache="off",
        )
    )


@pytest.fixture(scope="module")
def jobs(engine: LLMEngine) -> list[Job]:
    """Pieces of code, each with options of its own: greedy and seeded, and what else looks at a place or at tokens."""
    rng = random.Random(3)
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:60_000])
    options: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "seed": 5},
        {"repetition_penalty": 1.2, "frequency_penalty": 0.3},
        {"temperature": 0.7, "seed": 6, "presence_penalty": 1.0, "top_k": 30},
        {"logit_bias": {text[7]: 4.0, text[9]: -100.0}},
        {"min_tokens": 12, "ignore_eos": False, "stop_token_ids": list(range(40))},
        {"stop": ["\n", "self"], "include_stop_str_in_output": True},
        {"temperature": 1.1, "seed": 7, "top_p": 0.9, "min_p": 0.02, "stop": [" "]},
        {"logprobs": 5},
        {"temperature": 0.8, "seed": 8, "logprobs": 3, "prompt_logprobs": 2},
        {"max_tokens": 1},
        {"max_tokens": 3, "temperature": 0.5, "seed": 9},
    ]
    made: list[Job] = []
    for i in range(36):
        start, length = rng.randrange(len(text) - 250), rng.choice([5, 16, 17, 40, 64, 90, 130])
        prompt = text[start : start + length]
        if i % 3 == 0:
            prompt = [*prompt[:40], *prompt[:40], *prompt[:20]]  # comes again, so that guesses come true
        asked = {"temperature": 0.0, "max_tokens": OUTPUT, "ignore_eos": True, "logprobs": 2, **options[i % 12]}
        made.append((tuple(prompt), SamplingParams(**asked)))
    return made


def new_scheduler(
    engine: LLMEngine, speculator: Speculator | None, *, rows: int, tokens: int, blocks: int, prefix: bool
) -> None:
    engine.steps.in_flight.clear()  # a step that computes for nobody any more
    config = SchedulerConfig(
        max_rows=rows, max_step_tokens=tokens, max_model_len=LONGEST, chunk_align=CHUNK_ALIGN, prefix_caching=prefix
    )
    pool = KVPoolSpec(block_size=BLOCK, num_blocks=blocks)
    engine.scheduler = Scheduler(config, pool, engine.buckets, speculator=speculator)


def run(engine: LLMEngine, jobs: Sequence[Job], arrivals: Sequence[int] = ()) -> list[RequestOutput]:
    """Outputs of jobs that come at these steps, all at once where none are given."""
    coming = sorted(zip(arrivals or [0] * len(jobs), range(len(jobs)), strict=True), reverse=True)
    ids: dict[str, int] = {}
    done: dict[int, RequestOutput] = {}
    step = 0
    while coming or engine.has_unfinished:
        while coming and (coming[-1][0] <= step or not engine.has_unfinished):
            number = coming.pop()[1]
            ids[engine.submit(*jobs[number], output_kind=OutputKind.FINAL_ONLY)] = number
        for output in engine.step():
            done[ids[output.request_id]] = output
        step += 1
    engine.scheduler.check()
    return [done[number] for number in range(len(jobs))]


@pytest.fixture(scope="module")
def alone(engine: LLMEngine, jobs: list[Job]) -> list[RequestOutput]:
    """Each by itself, without guesses, nothing cached."""
    outputs: list[RequestOutput] = []
    for job in jobs:
        new_scheduler(engine, None, rows=ROWS, tokens=256, blocks=129, prefix=False)
        outputs += run(engine, [job])
    return outputs


def said(output: RequestOutput) -> tuple[Any, ...]:
    """All that a client sees of it, log probabilities to the last bit."""
    (one,) = output.outputs
    return (
        one.token_ids,
        one.text,
        one.logprobs,
        one.cumulative_logprob,
        one.finish_reason,
        one.stop_reason,
        output.prompt_logprobs,
    )


def speculators(
    engine: LLMEngine, jobs: list[Job], alone: list[RequestOutput], rng: random.Random
) -> Iterator[Speculator]:
    """Guesses of all kinds: half right, always right and too many, always wrong, and real ones."""
    answers = {job[0]: output.outputs[0].token_ids for job, output in zip(jobs, alone, strict=True)}
    vocab = engine.model_config.vocab

    def oracle(length: int, share: float, most: int) -> Speculator:
        def make(request: Request) -> OracleDrafter:
            return OracleDrafter(request, answers[request.prompt], length=length, share=share, vocab=vocab, rng=rng)

        return eager_speculator(make, most=most)

    while True:
        yield oracle(5, 0.7, 3)
        yield oracle(40, 1.0, 8)
        yield oracle(4, 0.0, 4)
        yield Speculator(NGRAM, costs=AnyPrice())
        yield Speculator(SUFFIX, costs=AnyPrice())
        yield Speculator(SUFFIX)


def test_answers_are_the_same_bits(engine: LLMEngine, jobs: list[Job], alone: list[RequestOutput]) -> None:
    rng = random.Random(17)
    compiles = engine.metrics.compiles_after_ready
    drafted = accepted = 0
    for _, speculator in zip(range(18), speculators(engine, jobs, alone, rng), strict=False):
        shape = {"rows": rng.randint(3, ROWS), "tokens": rng.choice([64, 128, 256])}
        new_scheduler(engine, speculator, **shape, blocks=129, prefix=False)
        chosen = rng.sample(range(len(jobs)), rng.randint(3, 8))
        found = run(engine, [jobs[i] for i in chosen], [rng.randint(0, 12) for _ in chosen])
        for i, output in zip(chosen, found, strict=True):
            assert said(output) == said(alone[i]), f"request {i} {jobs[i][1]} in {shape}"
        drafted += speculator.counts.draft_tokens
        accepted += speculator.counts.accepted_tokens
    assert engine.scheduler.num_preemptions == 0
    assert drafted > 500
    assert accepted > 150
    assert engine.metrics.compiles_after_ready == compiles == 0


def test_preempted_and_cached_answers_are_the_same(
    engine: LLMEngine, jobs: list[Job], alone: list[RequestOutput]
) -> None:
    """What is computed again or taken from another's blocks has other bits, so tokens that lie closer than these may
    change places: only in float32 is that seldom enough to be told from a mistake."""
    if engine.config.dtype != "float32":
        pytest.skip("in bfloat16 tokens are not told apart by what was computed again")
    rng = random.Random(19)
    preemptions = cached = accepted = 0
    ties: list[str] = []
    for number, speculator in zip(range(24), speculators(engine, jobs, alone, rng), strict=False):
        shape = {"rows": rng.randint(3, ROWS), "tokens": rng.choice([64, 128, 256]), "blocks": rng.choice([18, 24, 40])}
        new_scheduler(engine, speculator, **shape, prefix=rng.random() < 0.7)
        chosen = rng.choices(range(len(jobs)), k=rng.randint(5, 9))
        found = run(engine, [jobs[i] for i in chosen], [rng.randint(0, 20) for _ in chosen])
        for i, output in zip(chosen, found, strict=True):
            tokens, expected = output.outputs[0].token_ids, alone[i].outputs[0].token_ids
            if tokens != expected:
                at = next(n for n, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1])
                logprobs = alone[i].outputs[0].logprobs
                assert jobs[i][1].greedy, f"request {i} of schedule {number}: {shape}"
                assert logprobs is not None
                best = sorted((entry.logprob for entry in logprobs[at].values()), reverse=True)
                assert best[0] - best[1] <= TIE, f"request {i} of schedule {number}, token {at}: {shape}"
                ties.append(f"request {i} of schedule {number}, token {at}")
        preemptions += engine.scheduler.num_preemptions
        cached += engine.scheduler.num_cached_tokens
        accepted += speculator.counts.accepted_tokens
    assert preemptions > 5
    assert cached > 300
    assert accepted > 100
    assert len(ties) <= 1, ties


def test_an_engine_asked_for_guesses_makes_them_and_says_the_same(engine: LLMEngine, jobs: list[Job]) -> None:
    """Through the option itself, with costs as measured, overlapped and not."""
    windows = engine.model_config.kv_windows()
    said_by: dict[Any, list[Any]] = {}
    config = engine.config
    for overlapped in (True, False):
        for speculation in (None, NGRAM, SUFFIX):
            engine.steps.in_flight.clear()
            engine.config = replace(
                config, speculation=speculation, async_scheduling=overlapped, enable_prefix_caching=False
            )
            engine.scheduler = make_scheduler(engine.config, windows, engine.buckets, clock=engine._clock)
            said_by[overlapped, speculation] = [said(output) for job in jobs for output in run(engine, [job])]
            speculator = engine.scheduler.speculator
            assert (speculator is None) == (speculation is None)
            if speculator is not None:
                assert speculator.counts.accepted_tokens > 20
                assert engine.metrics.accepted_tokens == speculator.counts.accepted_tokens
    engine.config = config
    first, *others = said_by.values()
    assert all(other == first for other in others)


def test_outputs_of_a_step_come_once_and_whole(engine: LLMEngine, jobs: list[Job], alone: list[RequestOutput]) -> None:
    prompt, _ = jobs[0]
    tokens = alone[0].outputs[0].token_ids

    def make(request: Request) -> OracleDrafter:
        return OracleDrafter(request, tokens, length=9, share=1.0, vocab=8, rng=random.Random(0))

    new_scheduler(engine, eager_speculator(make, most=5), rows=ROWS, tokens=256, blocks=129, prefix=False)
    params = SamplingParams(temperature=0.0, max_tokens=13, ignore_eos=True)
    engine.submit(prompt, params, output_kind=OutputKind.DELTA)
    deltas: list[tuple[int, ...]] = []
    while engine.has_unfinished:
        outputs = engine.step()
        assert len(outputs) <= 1
        deltas += [output.outputs[0].token_ids for output in outputs]
    assert [len(delta) for delta in deltas] == [1, 6, 6]
    assert sum(deltas, ()) == tokens[:13]


HYBRID: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "use_sliding_window": True,
    "sliding_window": 24,
    "max_window_layers": 2,
}


@pytest.fixture(scope="module")
def hybrid() -> LLMEngine:
    """Layers with a window and layers without: two KV groups."""
    config = EngineConfig(
        model="hybrid",
        dtype="float32",
        attention_backend="xla",
        max_model_len=256,
        max_num_seqs=16,
        max_num_batched_tokens=128,
        num_gpu_blocks_override=257,
        block_size=BLOCK,
        compile_cache="off",
        warmup=False,
    )
    return LLMEngine(config, model=random_model(HYBRID, seed=3))


def serve(
    hybrid: LLMEngine, jobs: Sequence[Job], speculator: Speculator | None, *, blocks: int = 257
) -> list[RequestOutput]:
    hybrid.steps.in_flight.clear()
    config = SchedulerConfig(max_rows=16, max_step_tokens=128, max_model_len=256, chunk_align=CHUNK_ALIGN)
    pool = KVPoolSpec(block_size=BLOCK, num_blocks=blocks, windows=hybrid.model_config.kv_windows())
    fills = speculator.draft.fills if speculator is not None and speculator.draft is not None else None
    hybrid.scheduler = Scheduler(config, pool, hybrid.buckets.base, speculator=speculator, block_listener=fills)
    return run(hybrid, jobs)


def test_windows(hybrid: LLMEngine) -> None:
    rng = random.Random(1)
    assert hybrid.model_config.kv_windows() == (None, 24)
    prompts = [tuple(rng.randrange(211) for _ in range(length)) for length in (3, 40, 50, 45, 31, 110)]
    params = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True, logprobs=2)
    jobs: list[Job] = [(prompt, params) for prompt in prompts]
    plain = serve(hybrid, jobs, None)
    for _, speculator in zip(range(5), speculators(hybrid, jobs, plain, rng), strict=False):
        for blocks in (257, 40):
            found = serve(hybrid, jobs, speculator, blocks=blocks)
            assert [output.outputs[0].token_ids for output in found] == [o.outputs[0].token_ids for o in plain]
            if blocks == 257:
                assert list(map(said, found)) == list(map(said, plain))
        assert speculator.counts.draft_tokens > 100


def likeliest(hybrid: LLMEngine, prompt: tuple[int, ...], count: int) -> dict[int, float]:
    """The likeliest next tokens, and their probabilities among each other."""
    params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=count)
    logprobs = serve(hybrid, [(prompt, params)], None)[0].outputs[0].logprobs
    assert logprobs is not None
    weights = {token: float(np.exp(entry.logprob)) for token, entry in logprobs[0].items()}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


@pytest.mark.parametrize("drawn", [False, True])
def test_the_distribution_is_that_of_the_model(hybrid: LLMEngine, drawn: bool) -> None:
    """Tokens of 1,500 seeds, of which one is guessed at its place, against their probabilities: chi-square. drawn: the
    guesses are a draft model's, which draws by the same noise."""
    kept, seeds = 6, 1500
    prompt = tuple(random.Random(5).randrange(211) for _ in range(20))
    first = likeliest(hybrid, prompt, kept)
    second = {token: likeliest(hybrid, (*prompt, token), kept) for token in first}
    begin = next(iter(first))

    def make(request: Request) -> OracleDrafter:
        answer = (begin, next(iter(second[begin])))  # guesses the second token, whatever the first one was
        return OracleDrafter(request, answer, length=2, share=1.0, vocab=211, rng=random.Random(0))

    speculator = eager_speculator(make, most=1)
    if drawn:
        draft = draft_of(hybrid, perturbed(hybrid._programs.model, share=0.1))
        draft.buckets = hybrid.buckets.base
        config = SpeculationConfig(method="draft_model", num_speculative_tokens=1, model="draft")
        speculator = Speculator(config, costs=AnyPrice(), draft=draft)
        speculator._draft_costs = None  # passes take nothing
    asked: dict[str, Any] = {"temperature": 1.0, "top_k": kept, "max_tokens": 3, "ignore_eos": True}
    jobs: list[Job] = [(prompt, SamplingParams(**asked, seed=seed)) for seed in range(seeds)]
    serve(hybrid, [], speculator)
    found: Counter[tuple[int, ...]] = Counter()
    for start in range(0, seeds, 5):  # so few at a time that there are rows for guesses
        found.update(output.outputs[0].token_ids[:2] for output in run(hybrid, jobs[start : start + 5]))
    assert speculator.counts.accepted_tokens > seeds / 50
    assert speculator.counts.draft_tokens > (1.05 if drawn else 2) * speculator.counts.accepted_tokens
    pairs = {(a, b): p * q for a, p in first.items() for b, q in second[a].items()}
    assert found.keys() <= pairs.keys()
    result = chisquare([found[pair] for pair in pairs], [seeds * p for p in pairs.values()])
    assert result.pvalue > 1e-3, found
