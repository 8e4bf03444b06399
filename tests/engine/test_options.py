"""Sampling parameters through a whole engine: every pair of values of two, each token against the oracle."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from all_pairs import all_pairs
from logits_recorder import Logits, recorded_logits
from sampler_oracle import Asked, choose, logprobs

from jaxpaged import LLM
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError, ParameterError
from jaxpaged.outputs import OutputKind
from jaxpaged.repetition import RepetitionDetectionParams
from jaxpaged.request import RequestOutput
from jaxpaged.sampling_params import SamplingParams
from jaxpaged.tiny.corpus import read_corpus

TEXT = "".join(read_corpus().held_out)[:20_000]
TAGS = {"reasoning_start_str": " the", "reasoning_end_str": " of a"}
WORDS = (" the", "and", "of a", " to", "in the")
OPTIONS: Mapping[str, Sequence[Any]] = {
    "temperature": (0.0, 0.8),
    "top_k": (0, 20),
    "top_p": (1.0, 0.9),
    "min_p": (0.0, 0.05),
    "seed": (3, 2**40),
    "presence_penalty": (0.0, 0.6),
    "frequency_penalty": (0.0, 0.4),
    "repetition_penalty": (1.0, 1.2),
    "logit_bias": (None, "some"),
    "allowed_token_ids": (None, "half"),
    "bad_words": (None, WORDS),
    "min_tokens": (0, 5),
    "stop": (None, (". ",)),
    "thinking_token_budget": (None, 1),
    "logprobs": (None, 0, 3, 50, -1),
    "logprob_token_ids": (None, (5, 900, 17)),
    "prompt_logprobs": (None, 2),
    "skip_reading_prefix_cache": (None, True),
}


@pytest.fixture(scope="module")
def llm() -> LLM:
    # a pool so small that requests are preempted; float32, so that the oracle reads what the sampler read
    return LLM(
        dtype="float32",
        max_model_len=128,
        max_num_seqs=8,
        max_num_batched_tokens=128,
        num_gpu_blocks_override=17,
        block_size=16,
        compile_cache="off",
        max_logprobs=-1,
        reasoning_config=TAGS,
    )


@pytest.fixture(scope="module")
def engine(llm: LLM) -> LLMEngine:
    return llm.engine


def params_of(options: Mapping[str, Any], vocab: int, rng: random.Random) -> SamplingParams:
    chosen = dict(options)
    if chosen["logit_bias"]:
        chosen["logit_bias"] = {token: rng.choice([-100.0, -2.0, 2.0]) for token in rng.sample(range(vocab), 40)}
    if chosen["allowed_token_ids"]:
        chosen["allowed_token_ids"] = rng.sample(range(vocab), vocab // 2)
    if chosen["logprob_token_ids"]:
        chosen["logprobs"] = None
    return SamplingParams(max_tokens=20, **chosen)


def asked_of(engine: LLMEngine, params: SamplingParams, prompt: Sequence[int], seed: int) -> Asked:
    def encode(text: str) -> tuple[int, ...]:
        return tuple(engine.tokenizer.encode(text, add_special_tokens=False))

    words: list[tuple[int, ...]] = []
    for word in params.bad_words or ():
        alone, within = encode(word.lstrip()), encode(f" {word.lstrip()}")
        words += [alone, within] if len(alone) == len(within) and alone[0] != within[0] else [alone]
    return Asked(
        params=params,
        prompt=prompt,
        seed=seed,
        stop_ids=frozenset(engine.tokenizer.eos_ids),
        bad_words=words,
        think=(encode(TAGS["reasoning_start_str"]), encode(TAGS["reasoning_end_str"])),
    )


def run(engine: LLMEngine, work: Sequence[tuple[Sequence[int], SamplingParams]]) -> tuple[list[RequestOutput], Logits]:
    with recorded_logits(engine) as seen:
        ids = [
            engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY, request_id=f"r{i}")
            for i, (prompt, params) in enumerate(work)
        ]
        done: dict[str, RequestOutput] = {}
        while engine.has_unfinished:
            done |= {output.request_id: output for output in engine.step()}
    return [done[name] for name in ids], seen


def test_pairs_of_options_equal_the_oracle(engine: LLMEngine) -> None:
    rng = random.Random(11)
    vocab = engine.model_config.vocab
    text = engine.tokenizer.encode(TEXT)
    work: list[tuple[tuple[int, ...], SamplingParams]] = []
    for options in all_pairs(OPTIONS, seed=1) * 2:
        start = rng.randrange(len(text) - 80)
        prompt = text[:32] if rng.random() < 0.75 else []  # a prefix that others have as well
        work.append(((*prompt, *text[start : start + rng.randint(1, 40)]), params_of(options, vocab, rng)))
    compiles = engine.metrics.compiles_after_ready
    outputs, seen = run(engine, work)
    places = unsure = 0
    for i, ((prompt, params), output) in enumerate(zip(work, outputs, strict=True)):
        asked = asked_of(engine, params, prompt, (params.seed or 0) & 0xFFFFFFFF)
        tokens = output.outputs[0].token_ids
        for place, token in enumerate(tokens):
            logits = seen[f"r{i}", len(prompt) + place]
            expected = choose(logits, tokens[:place], asked)
            places += 1
            unsure += not expected.sure
            if expected.sure:
                assert token == expected.token, (params, place)
            check_logprobs(output, place, token, logits)
        if output.outputs[0].finish_reason == "error":
            assert choose(seen[f"r{i}", len(prompt) + len(tokens)], tokens, asked).token == -1, output.error
            assert output.error is not None
            assert "leave no token" in output.error
    assert places > 5 * len(work)
    assert unsure < 0.03 * places
    assert engine.metrics.preemptions > 0
    assert engine.metrics.cached_tokens > 0
    assert engine.metrics.compiles_after_ready == compiles == 0


def check_logprobs(output: RequestOutput, place: int, token: int, logits: Any) -> None:
    told = output.outputs[0].logprobs
    if told is None:
        return
    own = logprobs(logits)
    assert token in told[place]
    for other, one in told[place].items():
        assert abs(one.logprob - own[other]) < 1e-4
        assert one.rank is None or one.rank == 1 + int(
            (logits > logits[other]).sum() + (logits[:other] == logits[other]).sum()
        )


def test_named_logprobs_and_all_of_them(llm: LLM) -> None:
    named, every, many = (
        llm.generate("The", params, use_tqdm=False)[0].outputs[0]
        for params in (
            SamplingParams(temperature=0, max_tokens=2, logprob_token_ids=[7, 5, 7]),
            SamplingParams(temperature=0, max_tokens=2, logprobs=-1),
            SamplingParams(temperature=0, max_tokens=2, logprobs=30),
        )
    )
    assert named.logprobs is not None
    assert every.logprobs is not None
    assert many.logprobs is not None
    assert named.token_ids == every.token_ids
    vocab = llm.engine.model_config.vocab
    for place, token in enumerate(named.token_ids):
        assert set(named.logprobs[place]) == {7, 5, token}
        assert named.logprobs[place][token].rank == 1
        assert set(every.logprobs[place]) == set(range(vocab))
        assert sorted(one.rank or 0 for one in every.logprobs[place].values()) == list(range(1, vocab + 1))
        assert len(many.logprobs[place]) == 30
        assert many.logprobs[place].items() <= every.logprobs[place].items()
    assert named.cumulative_logprob == pytest.approx(every.cumulative_logprob)


def test_a_request_may_not_ask_for_more_logprobs_than_the_engine_tells() -> None:
    small = LLM(max_model_len=64, warmup=False, compile_cache="off")
    for params in (SamplingParams(logprobs=21), SamplingParams(logprobs=-1)):
        with pytest.raises(ParameterError, match=r"logprobs is .*20 a token at most.*max_logprobs"):
            small.generate("x", params, use_tqdm=False)
    with pytest.raises(ConfigError, match="max_logprobs"):
        LLM(max_logprobs=-2)


def test_prompts_are_truncated(llm: LLM) -> None:
    ids = llm.engine.tokenizer.encode(TEXT[:2000])
    assert len(ids) > 200
    kept = {
        (k, side): llm.generate(
            ids, SamplingParams(max_tokens=3, truncate_prompt_tokens=k, truncation_side=side), use_tqdm=False
        )[0].prompt_token_ids
        for k, side in ((5, None), (5, "left"), (5, "right"), (-1, None), (1, None))
    }
    assert kept[5, None] == kept[5, "left"] == tuple(ids[-5:])
    assert kept[5, "right"] == tuple(ids[:5])
    assert kept[-1, None] == tuple(ids[-125:])  # max_model_len less max_tokens
    assert kept[1, None] == tuple(ids[-1:])
    short = llm.generate([1, 2], SamplingParams(max_tokens=1, truncate_prompt_tokens=5), use_tqdm=False)[0]
    assert short.prompt_token_ids == (1, 2)


def test_an_answer_in_circles_ends(llm: LLM) -> None:
    params = SamplingParams(
        temperature=0,
        max_tokens=40,
        allowed_token_ids=[40, 41],
        repetition_detection=RepetitionDetectionParams(max_pattern_size=20, min_count=2),
    )
    (output,) = llm.generate("x", params, use_tqdm=False)[0].outputs
    assert output.finish_reason == "repetition"
    assert output.stop_reason == "repetition_detected"
    assert len(output.token_ids) < 40


def test_thinking_ends_in_time(llm: LLM) -> None:
    encode = llm.engine.tokenizer.encode
    start = encode(TAGS["reasoning_start_str"], add_special_tokens=False)
    end = encode(TAGS["reasoning_end_str"], add_special_tokens=False)
    assert len(end) > 1
    for budget in (0, 4):
        params = SamplingParams(temperature=0.9, seed=1, max_tokens=12, thinking_token_budget=budget, ignore_eos=True)
        (output,) = llm.generate([1, 2, *start], params, use_tqdm=False)[0].outputs
        assert list(output.token_ids[budget : budget + len(end)]) == list(end)


def test_the_bundled_model_has_no_tags_of_its_own() -> None:
    small = LLM(max_model_len=64, warmup=False, compile_cache="off")
    with pytest.raises(ParameterError, match=r"thinking_token_budget is 5: nothing tells .*reasoning_config"):
        small.generate("x", SamplingParams(thinking_token_budget=5), use_tqdm=False)


def test_no_text_where_none_is_asked_for(llm: LLM) -> None:
    params = {"temperature": 0, "max_tokens": 4, "logprobs": 1}
    (silent,) = llm.generate("The", SamplingParams(**params, detokenize=False), use_tqdm=False)[0].outputs
    (told,) = llm.generate("The", SamplingParams(**params), use_tqdm=False)[0].outputs
    assert silent.token_ids == told.token_ids
    assert (silent.text, bool(told.text)) == ("", True)
    assert silent.logprobs is not None
    assert {one.decoded_token for place in silent.logprobs for one in place.values()} == {None}
    with pytest.raises(ParameterError, match=r"stop is .*without detokenize"):
        SamplingParams(stop="a", detokenize=False)


def test_a_prefix_is_not_read_where_that_is_asked_for(llm: LLM) -> None:
    ids = llm.engine.tokenizer.encode(TEXT[5000:5400])[:64]
    cached = [
        llm.generate(ids, SamplingParams(max_tokens=1, skip_reading_prefix_cache=skip), use_tqdm=False)[
            0
        ].num_cached_tokens
        for skip in (None, None, True, False)
    ]
    assert cached[1] > 0
    assert cached[2] == 0
    assert cached[3] > 0


def test_what_asks_for_nothing_is_taken() -> None:
    params = SamplingParams(
        logits_processors=None,
        extra_args=None,
        flat_logprobs=False,
        guided_decoding=None,
        skip_clone=True,  # pyright: ignore[reportCallIssue]
    )
    assert params == SamplingParams()
    with pytest.raises(
        ParameterError, match=r"logits_processors is .*no code of a request runs.*Use allowed_token_ids"
    ):
        SamplingParams(logits_processors=[len])  # pyright: ignore[reportCallIssue]
