"""The offline face: order, stop strings, sampling options, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jaxpaged.chat_template import ChatTemplates
from jaxpaged.errors import CapacityError, ConfigError, ContextLengthError, ParameterError, PromptError
from jaxpaged.llm import LLM
from jaxpaged.request import SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(
        dtype="float32",
        max_model_len=256,
        max_num_seqs=8,
        max_num_batched_tokens=128,
        num_gpu_blocks_override=12,
        block_size=16,
        compile_cache="off",
    )


def text(llm: LLM, prompt: Any, params: SamplingParams) -> str:
    return llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].text


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = ["def f(x):", "import ", "class C:\n", "# a", "try:\n"]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert [o.prompt for o in outputs] == prompts
    assert all(o.finished and o.outputs[0].finish_reason == "length" for o in outputs)
    assert [o.outputs[0].text for o in outputs] == [text(llm, p, GREEDY) for p in prompts]


def test_token_ids_text_and_dicts_are_the_same_prompt(llm: LLM) -> None:
    ids = llm.engine.tokenizer.encode("import os")
    same = ("import os", ids, tuple(ids), np.asarray(ids), {"prompt": "import os"}, {"prompt_token_ids": ids})
    assert len({text(llm, prompt, GREEDY) for prompt in same}) == 1


def test_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    whole = text(llm, "import ", GREEDY)
    stop = whole[3:6]
    at = whole.index(stop)
    [output] = llm.generate("import ", SamplingParams(temperature=0, max_tokens=16, stop=stop), use_tqdm=False)
    assert output.outputs[0].text == whole[:at]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", stop)
    kept = SamplingParams(temperature=0, max_tokens=16, stop=stop, include_stop_str_in_output=True)
    assert text(llm, "import ", kept) == whole[:at] + stop


def test_stop_token_and_min_tokens(llm: LLM) -> None:
    tokens = llm.generate("import ", GREEDY, use_tqdm=False)[0].outputs[0].token_ids
    stop = tokens[2]
    first = tokens.index(stop)
    params = SamplingParams(temperature=0, max_tokens=16, stop_token_ids=[stop], ignore_eos=True)
    [output] = llm.generate("import ", params, use_tqdm=False)
    assert output.outputs[0].token_ids == tokens[: first + 1]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", stop)
    longer = SamplingParams(temperature=0, max_tokens=16, stop_token_ids=[stop], min_tokens=10, ignore_eos=True)
    [output] = llm.generate("import ", longer, use_tqdm=False)
    assert len(output.outputs[0].token_ids) >= 10
    assert stop not in output.outputs[0].token_ids[:9]


def test_stop_strings_wait_for_min_tokens(llm: LLM) -> None:
    whole = llm.generate("import ", GREEDY, use_tqdm=False)[0].outputs[0]
    stop = whole.text[1:3]
    early = SamplingParams(temperature=0, max_tokens=16, stop=stop, ignore_eos=True)
    late = SamplingParams(temperature=0, max_tokens=16, stop=stop, min_tokens=12, ignore_eos=True)
    assert len(llm.generate("import ", early, use_tqdm=False)[0].outputs[0].token_ids) < 12
    assert len(llm.generate("import ", late, use_tqdm=False)[0].outputs[0].token_ids) >= 12


def test_the_longest_context_is_what_the_pool_holds() -> None:
    small = LLM(num_gpu_blocks_override=4, block_size=16, warmup=False, compile_cache="off")
    assert small.engine.config.max_model_len == 48
    assert "KV cache holds; the model's is 2,048" in small.engine.config.reasons["max_model_len"]


def test_logit_bias_forces_and_bans(llm: LLM) -> None:
    forced = SamplingParams(temperature=0, max_tokens=4, logit_bias={1234: 100}, ignore_eos=True)
    assert llm.generate("x", forced, use_tqdm=False)[0].outputs[0].token_ids == (1234,) * 4
    usual = llm.generate("x", GREEDY, use_tqdm=False)[0].outputs[0].token_ids[0]
    banned = SamplingParams(temperature=0, max_tokens=1, logit_bias={usual: -100})
    assert llm.generate("x", banned, use_tqdm=False)[0].outputs[0].token_ids[0] != usual


def test_frequency_penalty_breaks_repetition(llm: LLM) -> None:
    forced = {"logit_bias": {50: 15.0}, "temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
    plain = llm.generate("x", SamplingParams(**forced), use_tqdm=False)[0].outputs[0].token_ids
    damped = SamplingParams(**forced, frequency_penalty=2.0, presence_penalty=2.0, repetition_penalty=1.5)
    assert plain.count(50) > llm.generate("x", damped, use_tqdm=False)[0].outputs[0].token_ids.count(50)


def test_logprobs(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, logprobs=3, ignore_eos=True)
    [output] = llm.generate("import ", params, use_tqdm=False)
    completion = output.outputs[0]
    assert completion.logprobs is not None
    assert len(completion.logprobs) == 5
    for token, alternatives in zip(completion.token_ids, completion.logprobs, strict=True):
        assert len(alternatives) == 3
        assert alternatives[token].rank == 1
        assert alternatives[token].logprob == max(p.logprob for p in alternatives.values()) <= 0
    total = sum(a[t].logprob for t, a in zip(completion.token_ids, completion.logprobs, strict=True))
    assert completion.cumulative_logprob == pytest.approx(total)


def test_prompt_logprobs(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=2, prompt_logprobs=count) for count in (None, 0, 3)]
    plain, only, three = llm.generate(["import os, sys"] * 3, params, use_tqdm=False)
    assert plain.prompt_logprobs is None
    for output, count in ((only, 0), (three, 3)):
        assert output.prompt_logprobs is not None
        assert output.prompt_logprobs[0] is None
        for token, place in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
            assert place is not None
            assert {p.rank for p in place.values()} == {*range(1, count + 1), place[token].rank}
            assert place[token].decoded_token == llm.engine.tokenizer.decode([token])
            assert all(p.decoded_token is not None and p.logprob <= 0 for p in place.values())
    assert only.prompt_token_ids == plain.prompt_token_ids


def test_chat_uses_the_template(llm: LLM) -> None:
    [output] = llm.chat([{"role": "user", "content": "hello"}], GREEDY, use_tqdm=False)
    rendered = llm.engine.tokenizer.apply_chat_template([{"role": "user", "content": "hello"}])
    assert output.prompt_token_ids == tuple(llm.engine.tokenizer.encode(rendered, add_special_tokens=False))
    begun = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "so:  "}]
    [output] = llm.chat(begun, GREEDY, use_tqdm=False, add_generation_prompt=False, continue_final_message=True)
    prompt = llm.engine.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False)
    assert prompt == f"{rendered}so:  "


def test_chat_shows_the_template_the_tools(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    shows = ChatTemplates({"default": "none", "tool_use": "{{ tools[0].function.name }}"}, {})
    monkeypatch.setattr(llm.engine.tokenizer, "_templates", shows)
    said, tools = [{"role": "user", "content": "hello"}], [{"type": "function", "function": {"name": "weather"}}]
    for given, prompt in ((tools, "weather"), (None, "none"), ([], "none")):
        [output] = llm.chat(said, GREEDY, use_tqdm=False, tools=given)
        assert llm.engine.tokenizer.decode(output.prompt_token_ids) == prompt


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        ("", PromptError, "no token"),
        ([], PromptError, "no token"),
        ([1, 4096], PromptError, "4096.*0 to 4095"),
        ([-1], PromptError, "-1"),
        ([1.5], PromptError, "whole number"),
        ([5] * 256, ContextLengthError, "256.*max_model_len=256"),
        ([5] * 170, CapacityError, "block"),
        ({"text": "x"}, PromptError, "prompt_token_ids"),
        (None, PromptError, "NoneType"),
        (5, PromptError, "int"),
        (b"import os", PromptError, "bytes.*Decode"),
        ([1, [2, 3]], PromptError, r"\[2, 3\].*whole number"),
        ([1, True], PromptError, "True.*whole number"),
        ({"prompt": {1, 2}}, PromptError, "set"),
    ],
)
def test_bad_prompts_are_refused_by_name_before_anything_runs(llm: LLM, prompt: Any, error: type, words: str) -> None:
    steps = llm.engine.metrics.steps
    with pytest.raises(error, match=words):
        llm.generate(["fine", prompt], SamplingParams(max_tokens=40), use_tqdm=False)
    assert llm.engine.metrics.steps == steps
    assert not llm.engine.has_unfinished


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", "hot"),
        ("top_p", 0.0), ("top_p", 1.01), ("top_p", math.nan), ("min_p", -0.1), ("min_p", 2), ("top_k", -2),
        ("top_k", 2**40), ("top_k", 1.5), ("seed", 2**70), ("max_tokens", 0), ("max_tokens", -5), ("max_tokens", 2**40),
        ("min_tokens", -1), ("min_tokens", 17), ("stop", ""), ("stop", ["a", ""]), ("stop", [3]), ("logprobs", -2),
        ("prompt_logprobs", -1), ("prompt_logprobs", 21), ("logprobs", 1.5), ("presence_penalty", 2.1),
        ("frequency_penalty", math.nan), ("repetition_penalty", 0),
        ("repetition_penalty", 1e-3), ("stop", 5), ("stop_token_ids", 5),
        ("repetition_penalty", 1e9), ("logit_bias", {1: 101}), ("logit_bias", {-1: 1}), ("logit_bias", [1]),
        ("ignore_eos", "no"), ("include_stop_str_in_output", 1), ("skip_special_tokens", None),
        ("logit_bias", {1: math.nan}), ("logit_bias", dict.fromkeys(range(513), 1)), ("stop_token_ids", [-1]),
        ("n", 0), ("n", 129), ("n", True), ("best_of", 0), ("best_of", 129), ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]), ("allowed_token_ids", "12"), ("bad_words", [""]), ("bad_words", 7),
        ("bad_words", [f"w{i}" for i in range(513)]), ("logprob_token_ids", []),
        ("logprob_token_ids", list(range(129))),
        ("truncate_prompt_tokens", 0), ("truncate_prompt_tokens", -2), ("truncation_side", "middle"),
        ("thinking_token_budget", -2), ("thinking_token_budget", 1.5), ("repetition_detection", {"min_count": 2}),
        ("skip_reading_prefix_cache", "no"), ("detokenize", 1), ("spaces_between_special_tokens", None),
        ("logits_processors", [print]), ("extra_args", {"a": 1}), ("guided_decoding", {"json": {}}),
        ("use_beam_search", True), ("flat_logprobs", True), ("output_kind", 1), ("length_penalty", 0.5),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ParameterError, match=field) as caught:
        SamplingParams(**{field: value})  # pyright: ignore[reportArgumentType]
    assert caught.value.limit


def test_ids_beyond_the_vocabulary(llm: LLM) -> None:
    for name, value in (
        ("logit_bias", {4096: 1}), ("stop_token_ids", [99999]), ("allowed_token_ids", [1, 4096]),
        ("logprob_token_ids", [4096]),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match="0 to 4095"):
            llm.generate("x", SamplingParams(**{name: value}), use_tqdm=False)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float8"}, "dtype"),
        ({"max_model_len": 1}, "max_model_len"),
        ({"max_model_len": 10**6}, "2048"),
        ({"block_size": 24}, "power of two"),
        ({"block_size": "16"}, "block_size"),
        ({"seed": "abc"}, "seed"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 64}, "max_num_seqs=64"),
        ({"kv_cache_memory_bytes": 100}, "bytes"),
        ({"attention_backend": "cuda"}, "attention_backend"),
        ({"max_modl_len": 7}, "max_modl_len.*no such option"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LLM(warmup=False, compile_cache="off", **options)


@pytest.mark.parametrize("prompts", [None, 7, b"import os"])
def test_what_is_no_list_of_prompts(llm: LLM, prompts: Any) -> None:
    with pytest.raises(PromptError, match="prompts is"):
        llm.generate(prompts, use_tqdm=False)


def test_one_params_per_prompt(llm: LLM) -> None:
    with pytest.raises(ParameterError, match="2 prompts"):
        llm.generate(["a", "b"], [GREEDY], use_tqdm=False)
