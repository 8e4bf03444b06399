"""Fields of bodies that change what is drawn or told, in front of a scripted engine: they come to the engine as they
were sent, and logprobs of named tokens, cut prompts and streams told in pieces have their forms."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_engine import INFO, next_token
from served import events_of, served

from jaxpaged.repetition import RepetitionDetectionParams
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer

TOKENIZER = Tokenizer.load(TINY_MODEL)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "max_tokens": 3},
    COMPLETIONS: {"prompt": [5, 6, 7], "max_tokens": 3},
}
TAKEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"allowed_token_ids": [7, 5, 7]}, {"allowed_token_ids": (7, 5)}),
    ({"bad_words": ["a", " b", "a"]}, {"bad_words": ("a", " b")}),
    ({"bad_words": []}, {"bad_words": ()}),
    ({"thinking_token_budget": 7}, {"thinking_token_budget": 7}),
    ({"thinking_token_budget": -1}, {"thinking_token_budget": None}),
    (
        {"repetition_detection": {"max_pattern_size": 4, "min_pattern_size": 2, "min_count": 3}},
        {"repetition_detection": RepetitionDetectionParams(max_pattern_size=4, min_pattern_size=2, min_count=3)},
    ),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"allowed_token_ids": ids}, "allowed_token_ids") for ids in ([], [-1], [4096], ["a"], 5)),
    *(({"bad_words": words}, "bad_words") for words in ([""], [5], "a", ["a"] * 513)),
    ({"thinking_token_budget": -2}, "thinking_token_budget"),
    ({"repetition_detection": {"max_pattern_size": 4}}, "repetition_detection.min_count"),
    ({"repetition_detection": {"max_size": 4}}, "repetition_detection"),
    ({"logprob_token_ids": [5]}, "logprob_token_ids"),
    *(({"logprobs": True, "logprob_token_ids": ids}, "logprob_token_ids") for ids in ([], [4096], [-1], [5] * 200)),
    *(({"truncate_prompt_tokens": most}, "truncate_prompt_tokens") for most in (0, -2, 1.5)),
    ({"truncate_prompt_tokens": 2, "truncation_side": "middle"}, "truncation_side"),
    ({"stream_interval": 0}, "stream_interval"),
    ({"logits_processors": ["code"]}, "logits_processors"),
]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_fields_come_to_the_engine_as_they_were_sent(path: str) -> None:
    async with served() as it:
        for fields, wanted in TAKEN:
            status, reply = await it.post(path, **LEAST[path], **fields)
            assert status == 200, (fields, reply)
            params = it.engine.streams.pop().params
            assert {name: getattr(params, name) for name in wanted} == wanted


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_what_cannot_be_is_refused_by_name(path: str) -> None:
    async with served() as it:
        for fields, param in REFUSED:
            asked = {**fields, "logprobs": 1} if path == COMPLETIONS and "logprobs" in fields else fields
            status, reply = await it.post(path, **LEAST[path], **asked)
            assert status == 400, (fields, reply)
            assert (reply["error"]["param"] or "").startswith(param), (fields, reply)
        assert not it.engine.streams


async def test_logprobs_of_named_tokens_come_in_place_of_the_likeliest() -> None:
    """The scripted engine tells the chosen token, -0.5, and the ones after it: -1.5, -2.5, ..."""
    async with served() as it:
        first = next_token([5, 6, 7], 0)
        asked = {"logprobs": 2, "logprob_token_ids": [first + 3, first + 1, first + 3]}
        status, reply = await it.post(COMPLETIONS, prompt=[5, 6, 7], max_tokens=1, **asked)
        assert status == 200, reply
        params = it.engine.streams.pop().params
        assert (params.logprobs, params.logprob_token_ids) == (None, (first + 3, first + 1))
        (top,) = reply["choices"][0]["logprobs"]["top_logprobs"]
        names = [TOKENIZER.decode([first + i]) for i in (1, 3, 0)]
        assert top == dict(zip(names, (-1.5, -3.5, -0.5), strict=True))
        ids = TOKENIZER.encode(TOKENIZER.apply_chat_template(HELLO), add_special_tokens=False)
        first = next_token(ids, 0)
        asked = {"logprobs": True, "top_logprobs": 5, "logprob_token_ids": [first + 2, first]}
        for stream in (False, True):
            if stream:
                events = await events_of(it, CHAT, messages=HELLO, max_tokens=1, **asked)
                (content,) = (
                    e["choices"][0]["logprobs"]["content"] for e in events[:-1] if e["choices"][0]["logprobs"]
                )
            else:
                status, reply = await it.post(CHAT, messages=HELLO, max_tokens=1, **asked)
                content = reply["choices"][0]["logprobs"]["content"]
            assert [entry["logprob"] for entry in content] == [-0.5]
            assert [entry["logprob"] for entry in content[0]["top_logprobs"]] == [-0.5, -2.5]


async def test_a_long_prompt_is_cut_where_that_is_asked_for() -> None:
    ids = TOKENIZER.encode("def f(x): return x + 1")
    long = list(range(5, 505))  # more than the context
    cases: list[tuple[Any, dict[str, Any], list[int]]] = [
        ("def f(x): return x + 1", {"truncate_prompt_tokens": 3}, ids[-3:]),
        ("def f(x): return x + 1", {"truncate_prompt_tokens": 3, "truncation_side": "right"}, ids[:3]),
        ("def f(x): return x + 1", {"truncate_prompt_tokens": 100}, ids),
        (long, {"truncate_prompt_tokens": 200}, long[-200:]),
        (long, {"truncate_prompt_tokens": -1}, long[-(INFO.max_model_len - 3) :]),
        (long, {"truncate_prompt_tokens": -1, "truncation_side": "right"}, long[: INFO.max_model_len - 3]),
        ("a b " * 4000, {"truncate_prompt_tokens": -1}, TOKENIZER.encode("a b " * 4000)[-(INFO.max_model_len - 3) :]),
    ]
    async with served() as it:
        for prompt, fields, wanted in cases:
            status, reply = await it.post(COMPLETIONS, prompt=prompt, max_tokens=3, **fields)
            assert status == 200, (fields, reply)
            assert list(it.engine.streams.pop().ids) == wanted, fields
            assert reply["usage"]["prompt_tokens"] == len(wanted)
        messages = [{"role": "user", "content": "a b " * 4000}]
        whole = TOKENIZER.encode(TOKENIZER.apply_chat_template(messages), add_special_tokens=False)
        assert (await it.post(CHAT, messages=messages, max_tokens=3, truncate_prompt_tokens=10))[0] == 200
        assert list(it.engine.streams.pop().ids) == whole[-10:]
        assert (await it.post(CHAT, messages=messages, max_tokens=3))[0] == 400


async def test_the_echo_of_a_cut_prompt_is_what_is_left() -> None:
    ids = TOKENIZER.encode("def f(x): return x + 1")
    async with served() as it:
        asked = {"prompt": "def f(x): return x + 1", "echo": True, "max_tokens": 0, "truncate_prompt_tokens": 4}
        _, reply = await it.post(COMPLETIONS, **asked)
    assert reply["choices"][0]["text"] == TOKENIZER.decode(ids[-4:], skip_special_tokens=False)


@pytest.mark.parametrize(
    ("server", "asked", "sizes"), [(1, 4, [1, 4, 4, 1]), (4, 2, [1, 4, 4, 1]), (1, None, [1] * 10)]
)
async def test_a_stream_may_be_told_in_larger_pieces_than_the_servers(
    server: int, asked: int | None, sizes: list[int]
) -> None:
    body: dict[str, Any] = {"stream_interval": asked} if asked else {}
    async with served(stream_interval=server) as it:
        events = await events_of(it, prompt=[1], max_tokens=10, return_token_ids=True, **body)
    assert [len(event["choices"][0]["token_ids"]) for event in events[:-1]] == sizes
