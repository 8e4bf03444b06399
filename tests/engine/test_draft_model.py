"""A draft model changes no token, whatever it draws, and draws what the served model would as far as it is like it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from draft_models import draft_of, perturbed
from drafters import AnyPrice

from jaxpaged.config import CHUNK_ALIGN, EngineConfig
from jaxpaged.draft_runner import DraftRunner
from jaxpaged.engine import LLMEngine
from jaxpaged.loaded_draft import widest_group
from jaxpaged.outputs import OutputKind
from jaxpaged.request import RequestOutput, SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.speculation.config import SpeculationConfig
from jaxpaged.speculation.speculator import Speculator
from jaxpaged.weights.random import random_model

VOCAB, BLOCK, ROWS, LONGEST, BLOCKS = 211, 16, 12, 256, 257
SERVED: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LONGEST,
    "use_sliding_window": True,
    "sliding_window": 24,
    "max_window_layers": 2,
}
OTHER: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
Job = tuple[tuple[int, ...], dict[str, Any]]
DRAWN = SpeculationConfig(method="draft_model", num_speculative_tokens=4, model="draft")


def make_engine(**changes: Any) -> LLMEngine:
    config = EngineConfig(
        model="served",
        dtype="float32",
        attention_backend="xla",
        max_model_len=LONGEST,
        max_num_seqs=ROWS,
        max_num_batched_tokens=128,
        num_gpu_blocks_override=BLOCKS,
        block_size=BLOCK,
        compile_cache="off",
        warmup=False,
    )
    return LLMEngine(config, model=random_model({**SERVED, **changes}, seed=3))


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    """Layers with a window and layers without: two KV groups."""
    return make_engine()


@pytest.fixture(scope="module")
def drafts(engine: LLMEngine) -> dict[str, DraftRunner]:
    """The served model itself, one that is like it, and one that is not."""
    served = engine._programs.model
    models = {"same": served, "like": perturbed(served, share=0.03), "other": random_model(OTHER, seed=1)}
    made = {name: draft_of(engine, model) for name, model in models.items()}
    for draft in made.values():
        draft.buckets = engine.buckets.base
    return made


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    rng = random.Random(2)
    options: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "seed": 5},
        {"temperature": 1.2, "seed": 6, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
        {"repetition_penalty": 1.2, "frequency_penalty": 0.3},
        {"logit_bias": {7: 4.0, 9: -100.0}, "temperature": 0.5, "seed": 1},
        {"allowed_token_ids": list(range(3, 90))},
        {"stop_token_ids": list(range(0, VOCAB, 5)), "min_tokens": 5},
        {"prompt_logprobs": 1, "max_tokens": 1},
        {"max_tokens": 2},
    ]
    lengths = (3, 40, 17, 64, 31, 110, 16, 20, 5)
    prompts = [tuple(rng.randrange(VOCAB) for _ in range(length)) for length in lengths]
    base = {"temperature": 0.0, "max_tokens": 30, "ignore_eos": True, "logprobs": 2}
    return [(prompt, {**base, **asked}) for prompt, asked in zip(prompts, options, strict=True)]


def serve(
    engine: LLMEngine,
    jobs: Sequence[Job],
    draft: DraftRunner | None,
    *,
    blocks: int = BLOCKS,
    most: int = 4,
    fresh: bool = True,
    arrivals: Sequence[int] = (),
) -> list[RequestOutput]:
    """Outputs of jobs that come at these steps, all at once where none are given. fresh: with nothing cached."""
    if fresh:
        engine.steps.in_flight.clear()
        config = SchedulerConfig(max_rows=ROWS, max_step_tokens=128, max_model_len=LONGEST, chunk_align=CHUNK_ALIGN)
        pool = KVPoolSpec(block_size=BLOCK, num_blocks=blocks, windows=engine.model_config.kv_windows())
        speculator = None
        if draft is not None:
            draft.restart()
            speculator = Speculator(replace(DRAWN, num_speculative_tokens=most), costs=AnyPrice(), draft=draft)
            speculator._draft_costs = None  # passes take nothing
        listener = draft.fills if draft else None
        engine.scheduler = Scheduler(config, pool, engine.buckets.base, speculator=speculator, block_listener=listener)
    coming = sorted(zip(arrivals or [0] * len(jobs), range(len(jobs)), strict=True), reverse=True)
    numbers: dict[str, int] = {}
    done: dict[int, RequestOutput] = {}
    step = 0
    while coming or engine.has_unfinished:
        while coming and coming[-1][0] <= step:
            number = coming.pop()[1]
            prompt, asked = jobs[number]
            numbers[engine.submit(prompt, SamplingParams(**asked), output_kind=OutputKind.FINAL_ONLY)] = number
        for output in engine.step():
            done[numbers[output.request_id]] = output
        step += 1
    engine.scheduler.check()
    return [done[number] for number in range(len(jobs))]


def said(output: RequestOutput) -> list[tuple[Any, ...]]:
    """All that a client sees of it, log probabilities to the last bit."""
    return [(one.token_ids, one.logprobs, one.finish_reason, output.prompt_logprobs) for one in output.outputs]


def counts(engine: LLMEngine) -> tuple[int, int]:
    """Guesses that were verified, and that came true."""
    speculator = engine.scheduler.speculator
    assert speculator is not None
    return speculator.counts.draft_tokens, speculator.counts.accepted_tokens


@pytest.mark.long
@pytest.mark.parametrize("name", ["same", "like", "other"])
def test_answers_are_the_same_bits(
    engine: LLMEngine, drafts: dict[str, DraftRunner], jobs: list[Job], name: str
) -> None:
    plain = serve(engine, jobs, None)
    for most, arrivals in ((4, ()), (1, ()), (7, (0, 0, 3, 3, 9, 12, 13, 20, 21))):
        found = serve(engine, jobs, drafts[name], most=most, arrivals=arrivals)
        assert list(map(said, found)) == list(map(said, plain))
        drafted, accepted = counts(engine)
        assert drafted > 20
        assert {"same": 0.6, "like": 0.2, "other": 0.0}[name] <= accepted / drafted
        assert name == "same" or accepted < drafted


def test_the_model_itself_foretells_every_token(engine: LLMEngine, drafts: dict[str, DraftRunner]) -> None:
    """Greedy ones and seeded ones, since both draw by the same noise."""
    rng = random.Random(4)
    for asked in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.7, "top_k": 9, "seed": 8}):
        prompt = tuple(rng.randrange(VOCAB) for _ in range(37))
        serve(engine, [(prompt, {**asked, "max_tokens": 41, "ignore_eos": True})], drafts["same"])
        assert counts(engine) == (32, 32)  # the first token has no guesses before it; then five come a step


def test_scarce_blocks_and_preemption(engine: LLMEngine, drafts: dict[str, DraftRunner], jobs: list[Job]) -> None:
    plain = serve(engine, jobs, None)
    preemptions = drafted = 0
    for name in ("same", "like"):
        found = serve(engine, jobs, drafts[name], blocks=20)
        tokens = [output.outputs[0].token_ids for output in found]
        assert tokens == [output.outputs[0].token_ids for output in plain]
        preemptions += engine.scheduler.num_preemptions
        drafted += counts(engine)[0]
    assert preemptions > 0
    assert drafted > 50


def taken_in(draft: DraftRunner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that each call of `propose` takes in, filled as calls come."""
    found: list[int] = []
    first_rows = draft._first_rows

    def noted(requests: Any) -> Any:
        rows = first_rows(requests)
        found.append(sum(row.length for row in rows))
        return rows

    monkeypatch.setattr(draft, "_first_rows", noted)
    return found


def test_a_cached_prefix_is_not_taken_in_again(
    engine: LLMEngine, drafts: dict[str, DraftRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, rng = drafts["same"], random.Random(6)
    prompt = tuple(rng.randrange(VOCAB) for _ in range(100))
    asked = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
    counted = taken_in(draft, monkeypatch)
    (first,) = serve(engine, [(prompt, asked)], draft)
    assert counted[0] == 101  # with the first token
    counted.clear()
    (again,) = serve(engine, [((*prompt, 5, 6), asked)], draft, fresh=False)
    assert again.num_cached_tokens == 96
    assert counted[0] == 7
    assert counts(engine)[0] == counts(engine)[1]  # what was cached is as good as what it took in itself
    assert first.outputs[0].token_ids != again.outputs[0].token_ids
    counted.clear()
    engine.scheduler.reset_prefix_cache()
    serve(engine, [((*prompt, 5, 6), asked)], draft, fresh=False)
    assert counted[0] == 103  # blocks that were given out anew


def test_forks_share_what_was_taken_in(
    engine: LLMEngine, drafts: dict[str, DraftRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, rng = drafts["same"], random.Random(7)
    prompt = tuple(rng.randrange(VOCAB) for _ in range(100))
    job = (prompt, {"temperature": 1.0, "seed": 4, "n": 3, "max_tokens": 20, "ignore_eos": True})
    plain = serve(engine, [job], None)
    counted = taken_in(draft, monkeypatch)
    found = serve(engine, [job], draft)
    assert list(map(said, found)) == list(map(said, plain))
    drafted, accepted = counts(engine)
    assert drafted == accepted > 20
    assert counted[0] == 101 + 2 * 5  # the shared blocks once, and of the tail what each has of its own
    assert max(counted[1:]) < 3 * BLOCK


def test_a_pool_that_was_lost_is_made_anew(engine: LLMEngine, drafts: dict[str, DraftRunner], jobs: list[Job]) -> None:
    draft = drafts["same"]
    plain = serve(engine, jobs, None)
    serve(engine, jobs[:1], draft)
    for layer in draft.runner.pool:
        for array in (layer.k, layer.v):
            array.delete()
    assert draft.runner.pool_is_lost
    found = serve(engine, jobs, draft, fresh=False)
    assert not draft.runner.pool_is_lost
    assert [o.outputs[0].token_ids for o in found] == [o.outputs[0].token_ids for o in plain]
    assert counts(engine)[1] > 20


def test_a_draw_that_is_cut_off_forgets_how_far_it_came(
    engine: LLMEngine, drafts: dict[str, DraftRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, rng = drafts["same"], random.Random(9)
    prompt = tuple(rng.randrange(VOCAB) for _ in range(40))
    asked = {"temperature": 0.0, "max_tokens": 20, "ignore_eos": True}
    (plain,) = serve(engine, [(prompt, asked)], None)
    serve(engine, [], draft)
    execute, calls = draft.runner.execute, [0]

    def cut_off(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return execute(*args)

    monkeypatch.setattr(draft.runner, "execute", cut_off)
    engine.submit(prompt, SamplingParams(**asked), output_kind=OutputKind.FINAL_ONLY)
    steps = 0
    while not calls[0]:
        engine.step()
        steps += 1
    assert steps < 5
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert not draft._progress
    (request,) = engine.scheduler.roster.running
    assert draft.fills.known(request) == 0
    outputs: list[RequestOutput] = []
    while engine.has_unfinished:
        outputs += engine.step()
    assert outputs[0].outputs[0].token_ids == plain.outputs[0].token_ids
    drafted, accepted = counts(engine)
    assert drafted == accepted > 8


def test_contexts_longer_than_the_draft_model_has_go_on_without_it(
    engine: LLMEngine, drafts: dict[str, DraftRunner]
) -> None:
    rng = random.Random(8)
    prompt = tuple(rng.randrange(VOCAB) for _ in range(90))
    job = (prompt, {"temperature": 0.0, "max_tokens": 100, "ignore_eos": True})
    plain = serve(engine, [job], None)
    assert drafts["other"].longest == 128
    assert list(map(said, serve(engine, [job], drafts["other"]))) == list(map(said, plain))
    drafted, _ = counts(engine)
    assert 0 < drafted <= 4 * 38


def test_nothing_is_remembered_of_requests_that_ended(
    engine: LLMEngine, drafts: dict[str, DraftRunner], jobs: list[Job]
) -> None:
    serve(engine, jobs, drafts["like"])
    assert not drafts["like"]._progress


@pytest.mark.parametrize(
    ("windows", "group", "longest"),
    [([None], 0, None), ([24, None], 1, None), ([24, 32], 1, 32), ([24, None, None], 1, None)],
)
def test_tokens_are_kept_in_the_blocks_that_are_kept_the_longest(
    windows: list[int | None], group: int, longest: int | None
) -> None:
    assert widest_group(windows) == (group, longest)


@pytest.mark.long
def test_where_every_layer_has_a_window_it_drafts_before_tokens_are_given_up() -> None:
    engine = make_engine(max_window_layers=0)
    assert engine.model_config.kv_windows() == (24,)
    draft = draft_of(engine, engine._programs.model)
    draft.buckets = engine.buckets.base
    job = ((5, 6, 7, 8), {"temperature": 0.0, "max_tokens": 60, "ignore_eos": True})
    plain = serve(engine, [job], None)
    assert list(map(said, serve(engine, [job], draft))) == list(map(said, plain))
    drafted, accepted = counts(engine)
    assert drafted == accepted
    assert 10 < drafted < 20


def test_what_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    for model, says in ((str(tmp_path / "none"), "no such folder"), (str(tmp_path), "config.json")):
        with pytest.raises(Exception, match=says):
            LLMEngine(EngineConfig(speculative_config={"model": model, "num_speculative_tokens": 3}))


@pytest.mark.parametrize("vocab", [150, 260])
def test_a_vocabulary_that_is_padded_otherwise_is_served(engine: LLMEngine, jobs: list[Job], vocab: int) -> None:
    """Tokens that only one of the models has are neither read by the other nor guessed."""
    draft = draft_of(engine, random_model({**OTHER, "vocab_size": vocab, "max_position_embeddings": LONGEST}, seed=1))
    draft.buckets = engine.buckets.base
    proposed: list[int] = []
    propose = draft.propose

    def noted(requests: Any, counts: Any) -> Any:
        drawn = propose(requests, counts)
        proposed.extend(token for guess in drawn.guesses for token in guess.tokens)
        return drawn

    draft.propose = noted
    plain = serve(engine, jobs, None)
    assert list(map(said, serve(engine, jobs, draft))) == list(map(said, plain))
    assert len(proposed) > 50
    assert max(proposed) < min(vocab, VOCAB)
