"""Every number of every body has bounds, and no prompt is too long or too short for a route (FLOAT, COUNT, LEN, EMPTY
and IDS of the advisories). Fields are found in the structs, so that a new one is tested, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jaxpaged_server.api.chat import REFUSED as CHAT_REFUSED
from jaxpaged_server.api.chat import ChatRequest
from jaxpaged_server.api.completions import REFUSED, CompletionRequest
from jaxpaged_server.api.parse import BodyError, parse_body
from jaxpaged_server.api.tokens import TokenizeRequest
from msgspec import inspect
from served import served

from jaxpaged.errors import ParameterError, RequestError
from jaxpaged.request import SamplingParams

HELLO = [{"role": "user", "content": "hello"}]
KINDS: tuple[tuple[type[msgspec.Struct], dict[str, Any]], ...] = (
    (CompletionRequest, {"prompt": "a"}),
    (ChatRequest, {"messages": HELLO}),
    (TokenizeRequest, {"prompt": "a"}),
)
DIGITS = "9" * 4000


def numbers(type_: inspect.Type) -> Iterator[inspect.IntType | inspect.FloatType]:
    """The numbers that a field may be, those inside of lists and objects left out."""
    if isinstance(type_, inspect.UnionType):
        for one in type_.types:
            yield from numbers(one)
    elif isinstance(type_, inspect.IntType | inspect.FloatType):
        yield type_


def fields_of(wanted: type[inspect.Type]) -> list[tuple[type[msgspec.Struct], dict[str, Any], str]]:
    found = []
    for kind, least in KINDS:
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        found += [
            (kind, least, field.encode_name)
            for field in info.fields
            if any(isinstance(one, wanted) for one in numbers(field.type))
        ]
    return found


def parsed(kind: type[msgspec.Struct], least: dict[str, Any], name: str, value: str) -> Any:
    """The field's value in a body that has it as this JSON text."""
    rest = json.dumps(least)[1:-1]
    refused = REFUSED if kind is CompletionRequest else CHAT_REFUSED
    return getattr(parse_body(f'{{"{name}": {value}, {rest}}}'.encode(), kind, refused=refused), name)


FLOATS, INTEGERS = fields_of(inspect.FloatType), fields_of(inspect.IntType)


def test_the_structs_were_looked_into() -> None:
    assert {"temperature", "top_p", "min_p", "presence_penalty", "timeout"} <= {name for _, _, name in FLOATS}
    assert {"n", "max_tokens", "seed", "top_k", "logprobs", "priority"} <= {name for _, _, name in INTEGERS}


@pytest.mark.parametrize(("kind", "least", "name"), FLOATS)
def test_float_only_finite_numbers_within_bounds(kind: type[msgspec.Struct], least: dict[str, Any], name: str) -> None:
    for value in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "-1e308", DIGITS, '"1"', "true", "[1]"):
        with pytest.raises(BodyError):
            parsed(kind, least, name, value)
    assert parsed(kind, least, name, "null") is None
    for value in ("-0.0", "1e-320", "1e-45"):  # the engine's part, where they are in bounds
        try:
            number = parsed(kind, least, name, value)
        except BodyError:
            continue
        assert number == float(value)
        if name in SamplingParams.__dataclass_fields__:
            assert getattr(SamplingParams(**{name: number}), name) == number


@pytest.mark.parametrize(("kind", "least", "name"), INTEGERS)
def test_count_each_whole_number_has_both_bounds(kind: type[msgspec.Struct], least: dict[str, Any], name: str) -> None:
    for value in (str(2**63), str(-(2**63) - 1), str(10**30), "-" + DIGITS, DIGITS, "1.5", '"1"', "true", "[1]"):
        with pytest.raises(BodyError):
            parsed(kind, least, name, value)
    if name != "seed":  # which has 64 bits
        for value in (str(2**31), str(-(2**31)), "-2"):
            with pytest.raises(BodyError):
                parsed(kind, least, name, value)


def test_count_every_list_and_every_object_of_numbers_has_a_most() -> None:
    for name, value in (
        *(("stop", ["a"] * 10_000), ("stop_token_ids", [1] * 10_000), ("bad_words", ["a"] * 10_000)),
        *(("logprob_token_ids", [1] * 10_000), ("allowed_token_ids", [1] * 300_000)),
        *(("logit_bias", {str(i): 1 for i in range(10_000)}), ("messages", HELLO * 10_000)),
        *(("chat_template_kwargs", {f"k{i}": 1 for i in range(10_000)}), ("chat_template", "a" * 70_000)),
    ):
        with pytest.raises(RequestError, match=name):
            parse_body(json.dumps({"messages": HELLO, name: value}).encode(), ChatRequest, refused=CHAT_REFUSED)


@pytest.mark.parametrize("token", [-1, 4096, 2**31 - 1, 2**31, 2**63, 10**30, 1.5, True, "1", None, [1]])
async def test_ids_are_those_of_the_model_wherever_they_stand(token: Any) -> None:
    async with served() as it:
        for prompt in ([token], [5, token], [[5, token]], [[5], [token]]):
            if prompt not in (["1"], [[1]]):  # a text, and a list of ids
                assert (await it.post("/v1/completions", prompt=prompt, max_tokens=1))[0] == 400, prompt
        for path, least in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", {"messages": HELLO})):
            assert (await it.post(path, **least, stop_token_ids=[token]))[0] == 400
            assert (await it.post(path, **least, allowed_token_ids=[token]))[0] == 400
            asked = {"logprobs": "chat" in path or 1, "logprob_token_ids": [token]}
            assert (await it.post(path, **least, **asked))[0] == 400
            assert (await it.post(path, **least, logit_bias={str(token) if token != "1" else "x": 1}))[0] == 400
        assert (await it.post("/detokenize", tokens=[token]))[0] == 400
        assert not it.engine.streams


async def test_len_no_route_takes_more_tokens_than_the_model() -> None:
    long = "def f(x): " * 200
    async with served(trust_request_chat_template=True) as it:
        for path, body in (
            ("/v1/completions", {"prompt": long}),
            ("/v1/completions", {"prompt": ["a", long]}),
            ("/v1/completions", {"prompt": [5] * 256}),
            ("/v1/completions", {"prompt": [[5], [5] * 256]}),
            ("/v1/completions", {"prompt": [5] * 200, "max_tokens": 57}),
            ("/v1/completions", {"prompt": long, "echo": True, "max_tokens": 0}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 200}),
            ("/v1/chat/completions", {"messages": HELLO, "chat_template": "{{ 'def f(x): ' * 200 }}"}),
            ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 256}),
        ):
            status, reply = await it.post(path, **body)
            assert (status, reply["error"]["code"]) == (400, "context_length_exceeded"), body
        grown = {"messages": HELLO, "chat_template": "{{ 'a' * 200000 }}"}
        status, reply = await it.post("/v1/chat/completions", **grown)
        assert (status, "more than 100000 characters" in reply["error"]["message"]) == (400, True)
        assert not it.engine.streams


async def test_empty_prompts_are_refused_or_answered_and_nothing_in_between() -> None:
    async with served() as it:
        for prompt, status in (
            *(("", 400), ([], 400), ([""], 400), ([[]], 400), (["a", ""], 400), ([[5], []], 400), (None, 400)),
            *((" ", 200), ("\n\t", 200), ("\0", 200), ("<|endoftext|>", 200), ([0], 200), ("\u200b", 200)),
        ):
            assert (await it.post("/v1/completions", prompt=prompt, max_tokens=1))[0] == status, prompt
        for content in ("", " ", None, [], [{"type": "text", "text": ""}], "<|endoftext|>"):
            messages = [{"role": "user", "content": content}]
            assert (await it.post("/v1/chat/completions", messages=messages, max_tokens=1))[0] == 200, content
        for messages in ([], None, [{}], [{"role": "user", "content": [{}]}]):
            assert (await it.post("/v1/chat/completions", messages=messages, max_tokens=1))[0] == 400, messages
        assert (await it.post("/v1/completions", prompt="a", max_tokens=0))[0] == 400
        assert (await it.post("/v1/chat/completions", messages=HELLO, max_tokens=0))[0] == 400
        assert await it.post("/tokenize", prompt="") == (
            200,
            {"count": 0, "max_model_len": 256, "tokens": [], "token_strs": None},
        )
        assert await it.post("/detokenize", tokens=[]) == (200, {"prompt": ""})


def test_float_the_engine_itself_refuses_what_is_no_number() -> None:
    for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"):
        for value in (float("nan"), float("inf"), -float("inf"), "1", True, None, [1]):
            given: dict[str, Any] = {name: value}
            with pytest.raises(ParameterError, match=name):
                SamplingParams(**given)
