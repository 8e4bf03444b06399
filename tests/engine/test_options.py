"""Sampling parameters through a whole engine, one by one; all of them together: `test_matrix.py`."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from jaxpaged import LLM
from jaxpaged.errors import ConfigError, ParameterError
from jaxpaged.repetition import RepetitionDetectionParams
from jaxpaged.sampling_params import SamplingParams
from jaxpaged.tiny.corpus import read_corpus

TEXT = "".join(read_corpus().held_out)[:20_000]
TAGS = {"reasoning_start_str": " the", "reasoning_end_str": " of a"}


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
    sides: tuple[tuple[int, Literal["left", "right"] | None], ...] = (
        (5, None),
        (5, "left"),
        (5, "right"),
        (-1, None),
        (1, None),
    )
    kept = {
        (k, side): llm.generate(
            ids, SamplingParams(max_tokens=3, truncate_prompt_tokens=k, truncation_side=side), use_tqdm=False
        )[0].prompt_token_ids
        for k, side in sides
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
    params: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logprobs": 1}
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
    neutral: dict[str, Any] = {
        "logits_processors": None,
        "extra_args": None,
        "flat_logprobs": False,
        "guided_decoding": None,
        "skip_clone": True,
    }
    params = SamplingParams(**neutral)
    assert params == SamplingParams()
    with pytest.raises(
        ParameterError, match=r"logits_processors is .*no code of a request runs.*Use allowed_token_ids"
    ):
        SamplingParams(logits_processors=[len])  # pyright: ignore[reportCallIssue]
