"""Beam search: equal to a search in NumPy over the whole vocabulary, to transformers' where both define it alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from families.folder import make_folder
from families.zoo import CASES

from jaxpaged.beams import BeamSearchParams
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import CapacityError, ParameterError
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.llm import LLM
from jaxpaged.outputs import OutputKind
from jaxpaged.request import RequestOutput, SamplingParams
from jaxpaged.scheduler import Scheduler, SchedulerConfig
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tiny.corpus import read_corpus

pytestmark = pytest.mark.long

Found = list[tuple[tuple[int, ...], float]]
"""Answers, the best first, with their log probabilities."""
BLOCK = 16


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(
        dtype="float32",
        max_model_len=128,
        max_num_seqs=16,
        max_num_batched_tokens=128,
        block_size=BLOCK,
        num_gpu_blocks_override=200,
        compile_cache="off",
    )


@pytest.fixture(scope="module")
def text(llm: LLM) -> tuple[int, ...]:
    return tuple(llm.engine.tokenizer.encode("".join(read_corpus().held_out)[:60_000]))


@pytest.fixture(scope="module")
def logprobs(llm: LLM) -> Callable[[tuple[int, ...]], np.ndarray]:
    """The log probabilities of all tokens after some, computed in one prefill, without the engine's steps."""
    import jax.numpy as jnp

    from jaxpaged.models.decoder import make_context, unflatten
    from jaxpaged.models.kv import make_pool

    engine = llm.engine
    model, config = engine.runner.model, engine.model_config
    network = unflatten(model.graphdef, model.leaves)
    known: dict[tuple[int, ...], np.ndarray] = {}

    def of(tokens: tuple[int, ...]) -> np.ndarray:
        if tokens not in known:
            backend = engine.runner.backend
            pool = make_pool(config, backend, num_blocks=9, block_size=BLOCK, dtype="float32")
            length = 128
            context = make_context(
                jnp.array([0, len(tokens)], jnp.int32),
                jnp.array([len(tokens)], jnp.int32),
                [jnp.arange(1, 9, dtype=jnp.int32)[None]] * len(config.kv_groups()),
                config=config,
                num_tokens=length,
                block_size=BLOCK,
                backend=backend,
            )
            padded = np.zeros(length, np.int32)
            padded[: len(tokens)] = tokens
            hidden, _ = network(jnp.asarray(padded), context, pool)
            row = np.asarray(network.logits(hidden[len(tokens) - 1][None].repeat(8, 0))[0], np.float64)
            known[tokens] = row - row.max() - np.log(np.exp(row - row.max()).sum())
        return known[tokens]

    return of


def by_hand(
    logprobs: Callable[[tuple[int, ...]], np.ndarray],
    prompt: tuple[int, ...],
    params: BeamSearchParams,
    ends: frozenset[int],
) -> Found:
    """The definition: every continuation of every beam, of which the likeliest 2 x width are looked at."""
    width = params.beam_width
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    complete: list[tuple[float, tuple[int, ...], float]] = []
    for place in range(params.max_tokens):
        longer = []
        for answer, total in beams:
            row = logprobs((*prompt, *answer))
            for token in np.argsort(-row, kind="stable")[: 2 * width].tolist():
                if token in ends:
                    score = (total + row[token]) / (len(prompt) + len(answer)) ** params.length_penalty
                    complete.append((float(score), (*answer, token), float(total + row[token])))
                else:
                    longer.append(((*answer, token), total + float(row[token])))
        beams = sorted(longer, key=lambda beam: -beam[1])[:width]
        if not beams:
            break
        if place == params.max_tokens - 1:
            size = len(prompt) + params.max_tokens
            complete += [(total / size**params.length_penalty, answer, total) for answer, total in beams]
    best = sorted(complete, key=lambda entry: -entry[0])[:width]
    return [(answer, total) for _, answer, total in best]


def assert_same(found: Found, wanted: Found) -> None:
    assert [answer for answer, _ in found] == [answer for answer, _ in wanted]
    np.testing.assert_allclose([total for _, total in found], [total for _, total in wanted], atol=2e-3)


def sequences(llm: LLM, prompts: list[tuple[int, ...]], params: BeamSearchParams) -> list[Found]:
    outputs = llm.beam_search([list(prompt) for prompt in prompts], params)
    llm.engine.scheduler.check()
    assert llm.engine.scheduler.ledger().held == 0
    return [
        [(sequence.tokens[len(prompt) :], sequence.cum_logprob) for sequence in output.sequences]
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -1.0])
def test_a_search_finds_what_the_definition_says(
    llm: LLM, text: tuple[int, ...], logprobs: Callable[..., np.ndarray], width: int, length_penalty: float
) -> None:
    params = BeamSearchParams(
        beam_width=width, max_tokens=9, length_penalty=length_penalty, include_stop_str_in_output=True
    )
    prompts = [text[300:305], text[400:416], text[500:531]]
    ends = frozenset(llm.engine.tokenizer.eos_ids)
    for prompt, found in zip(prompts, sequences(llm, prompts, params), strict=True):
        assert_same(found, by_hand(logprobs, prompt, params, ends))


def test_tokens_that_end_a_sequence(llm: LLM, text: tuple[int, ...], logprobs: Callable[..., np.ndarray]) -> None:
    """The bundled model seldom ends its text: some likely tokens do here."""
    engine, prompt, width = llm.engine, text[600:620], 3
    ends = frozenset(np.argsort(-logprobs(prompt))[1:3].tolist())
    for penalty in (1.0, -2.0):
        params = BeamSearchParams(beam_width=width, max_tokens=8, length_penalty=penalty, ignore_eos=True)
        sampling = SamplingParams(
            **{"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, "logprobs": 6, "stop_token_ids": sorted(ends)}
        )
        names = ["a", "b", "c"]
        requests = engine.enqueue_forks(prompt, [sampling] * width, request_ids=names, length_penalty=penalty)
        told: dict[str, list[int]] = {name: [] for name in names}
        reasons = {}
        while engine.has_unfinished:
            for event in engine.step_tokens():
                assert event.token is not None
                told[event.request_id].append(event.token)
                if event.finish is not None:
                    reasons[event.request_id] = event.finish.value, event.stop_reason
        wanted = by_hand(logprobs, prompt, params, ends)
        assert [tuple(told[name]) for name in names] == [answer for answer, _ in wanted]
        for name, (answer, _) in zip(names, wanted, strict=True):
            stopped = answer[-1] in ends
            assert reasons[name] == (("stop", answer[-1]) if stopped else ("length", None))
        assert any(answer[-1] in ends for answer, _ in wanted)
        assert all(request.state.value == "finished" for request in requests)


def run(
    engine: LLMEngine, prompts: list[tuple[int, ...]], params: BeamSearchParams, others: int
) -> list[RequestOutput]:
    names = []
    for i, prompt in enumerate(prompts):
        names.append(engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY))
        for j in range(others):
            sampling = SamplingParams(n=2, seed=i + j, max_tokens=12, ignore_eos=True)
            engine.submit(prompt[: 5 + j], sampling, output_kind=OutputKind.FINAL_ONLY)
    done = {}
    while engine.has_unfinished:
        for output in engine.step():
            done[output.request_id] = output
        engine.scheduler.check()
    return [done[name] for name in names]


def test_a_search_does_not_depend_on_the_schedule(llm: LLM, text: tuple[int, ...]) -> None:
    """Others beside it, chunks, and a pool so small that beams are preempted."""
    engine = llm.engine
    params = BeamSearchParams(beam_width=3, max_tokens=36, ignore_eos=True)
    prompts = [text[700:720], text[800:850], text[900:933]]
    before, preemptions = engine.scheduler, 0
    alone = [[said.token_ids for said in run(engine, [prompt], params, 0)[0].outputs] for prompt in prompts]
    compiled = engine.metrics.compiles_after_ready  # other tests of this process compile what they compare with
    for blocks, tokens in ((200, 32), (19, 128), (19, 64)):
        config = SchedulerConfig(max_rows=8, max_step_tokens=tokens, max_model_len=128, chunk_align=32)
        engine.scheduler = Scheduler(config, KVPoolSpec(block_size=BLOCK, num_blocks=blocks), engine.buckets)
        found = run(engine, prompts, params, 1)
        assert [[said.token_ids for said in output.outputs] for output in found] == alone
        preemptions += engine.scheduler.num_preemptions
    engine.scheduler = before
    assert preemptions > 3
    assert engine.metrics.compiles_after_ready == compiled


def test_beams_share_their_blocks(llm: LLM, text: tuple[int, ...]) -> None:
    engine = llm.engine
    engine.submit(
        text[:48], BeamSearchParams(beam_width=6, max_tokens=30, ignore_eos=True), output_kind=OutputKind.FINAL_ONLY
    )
    held = []
    while engine.has_unfinished:
        engine.step()
        held.append(engine.scheduler._cache.pool.num_referenced)
    assert max(held) < 3 + 6 * 2, "no more than the prompt and two blocks each"


def test_what_cannot_be_searched(llm: LLM, text: tuple[int, ...]) -> None:
    for options, told in (
        ({"beam_width": 0}, "beam_width is 0"),
        ({"beam_width": 11}, "from 1 to 10"),
        ({"beam_width": 2, "temperature": 0.5}, "temperature"),
        ({"beam_width": 2, "length_penalty": float("nan")}, "length_penalty"),
        ({"beam_width": 2, "max_tokens": 0}, "max_tokens"),
    ):
        with pytest.raises(ParameterError, match=told):
            BeamSearchParams(**({"max_tokens": 4} | options))  # pyright: ignore[reportArgumentType]
    engine = llm.engine
    with pytest.raises(ParameterError, match="output_kind"):
        engine.submit(text[:9], BeamSearchParams(beam_width=2, max_tokens=4))
    before = engine.scheduler
    config = SchedulerConfig(max_rows=4, max_step_tokens=64, max_model_len=128, chunk_align=32)
    engine.scheduler = Scheduler(config, KVPoolSpec(block_size=BLOCK, num_blocks=9), engine.buckets)
    with pytest.raises(ParameterError, match="a step has 4 rows"):
        engine.submit(text[:9], BeamSearchParams(beam_width=5, max_tokens=4), output_kind=OutputKind.FINAL_ONLY)
    with pytest.raises(CapacityError, match="3 x 49"):
        engine.submit(text[:9], BeamSearchParams(beam_width=3, max_tokens=40), output_kind=OutputKind.FINAL_ONLY)
    assert not engine.has_unfinished
    engine.scheduler = before


def test_an_abort_ends_a_search(llm: LLM, text: tuple[int, ...]) -> None:
    engine = llm.engine
    name = engine.submit(text[:9], BeamSearchParams(beam_width=3, max_tokens=40), output_kind=OutputKind.FINAL_ONLY)
    for _ in range(5):
        engine.step()
    assert engine.abort(name)
    assert not engine.has_unfinished
    assert not engine._searches
    engine.step()
    engine.scheduler.check()


@pytest.mark.parametrize("width", [2, 4])
def test_transformers_finds_the_same_where_no_token_ends(tmp_path: Path, width: int) -> None:
    """Both keep the likeliest beams of a step then, and all sequences are of one length. Random weights."""
    import torch

    oracle = make_folder(tmp_path, CASES["qwen3"])
    llm = LLM(
        model=str(tmp_path),
        tokenizer=str(TINY_MODEL),
        dtype="float32",
        max_model_len=64,
        max_num_seqs=8,
        max_num_batched_tokens=96,
        compile_cache="off",
        warmup=False,
    )
    rng = np.random.default_rng(width)
    prompts = [tuple(rng.integers(0, llm.engine.model_config.vocab, length).tolist()) for length in (5, 17, 32)]
    found = sequences(llm, prompts, BeamSearchParams(beam_width=width, max_tokens=12, ignore_eos=True))
    for prompt, ours in zip(prompts, found, strict=True):
        theirs = oracle.generate(
            torch.tensor([prompt]),
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        answers = [tuple(row[len(prompt) :].tolist()) for row in theirs.sequences]
        assert_same(ours, list(zip(answers, theirs.sequences_scores.tolist(), strict=True)))
