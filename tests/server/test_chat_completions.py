"""/v1/chat/completions over a scripted engine: the template, replies, streams, and what is refused."""

from __future__ import annotations

from typing import Any

from scripted_engine import next_token
from served import events_of, served

from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer

TOKENIZER = Tokenizer.load(TINY_MODEL)
PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def ids_of(messages: list[dict[str, Any]], **kwargs: Any) -> list[int]:
    return TOKENIZER.encode(TOKENIZER.apply_chat_template(messages, **kwargs), add_special_tokens=False)


def text_of(ids: list[int], count: int) -> str:
    return TOKENIZER.decode([next_token(ids, i) for i in range(count)])


async def test_a_reply_has_openais_form() -> None:
    async with served() as it:
        status, reply = await it.post(PATH, messages=HELLO, max_tokens=3)
        (stream,) = it.engine.streams
    assert status == 200, reply
    assert list(stream.ids) == ids_of(HELLO)
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": text_of(ids_of(HELLO), 3), "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ]


async def test_an_answer_may_be_as_long_as_the_context_allows() -> None:
    async with served() as it:
        _, reply = await it.post(PATH, messages=HELLO)
    assert reply["usage"]["total_tokens"] == 256


async def test_a_stream_begins_with_the_role_and_tells_the_same_text() -> None:
    async with served() as it:
        events = await events_of(it, PATH, messages=HELLO, max_tokens=3, n=2, stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"]["completion_tokens"] == 6
    for index in (0, 1):
        deltas = [choice for event in events[:-2] for choice in event["choices"] if choice["index"] == index]
        assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in deltas) == text_of(ids_of(HELLO), 3)
        assert [choice["finish_reason"] for choice in deltas if choice["finish_reason"]] == ["length"]


async def test_logprobs_have_their_bytes_and_alternatives() -> None:
    async with served() as it:
        _, reply = await it.post(PATH, messages=HELLO, max_tokens=1, logprobs=True, top_logprobs=2)
        (told,) = reply["choices"][0]["logprobs"]["content"]
        _, plain = await it.post(PATH, messages=HELLO, max_tokens=1, logprobs=True)
        status, _ = await it.post(PATH, messages=HELLO, max_tokens=1, logprobs=False, top_logprobs=0)
        assert status == 200, "no alternatives are asked for"
    token = next_token(ids_of(HELLO), 0)
    text = TOKENIZER.decode([token])
    assert told["token"] == text
    assert told["logprob"] == -0.5
    assert told["bytes"] == list(text.encode())
    assert [top["logprob"] for top in told["top_logprobs"]] == [-0.5, -1.5]
    assert plain["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


async def test_parts_of_text_are_joined_and_a_last_message_may_be_gone_on_with() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    begun = [*HELLO, {"role": "assistant", "content": "Once upon"}]
    async with served() as it:
        await it.post(PATH, messages=parts, max_tokens=1)
        assert list(it.engine.streams[-1].ids) == ids_of([{"role": "user", "content": "a\nb"}])
        status, reply = await it.post(PATH, messages=begun, max_tokens=1, continue_final_message=True)
        assert status == 200, reply
        assert TOKENIZER.decode(list(it.engine.streams[-1].ids), skip_special_tokens=False).endswith("Once upon")
        begun[-1]["content"] = "Answer:  "
        await it.post(PATH, messages=begun, max_tokens=1, continue_final_message=True)
        assert TOKENIZER.decode(list(it.engine.streams[-1].ids), skip_special_tokens=False).endswith("Answer:  ")
        begun[-1]["content"] = ">"
        await it.post(PATH, messages=begun, max_tokens=1, continue_final_message=True)
        assert TOKENIZER.decode(list(it.engine.streams[-1].ids), skip_special_tokens=False).endswith("|>\n>")


async def test_an_echo_is_the_text_of_the_last_message() -> None:
    parts = [{"type": "text", "text": "Once"}, {"type": "text", "text": "upon"}]
    begun = [*HELLO, {"role": "assistant", "content": parts}]
    async with served() as it:
        _, reply = await it.post(PATH, messages=begun, max_tokens=1, echo=True, continue_final_message=True)
        assert reply["choices"][0]["message"]["content"].startswith("Once\nupon")
        _, reply = await it.post(PATH, messages=begun, max_tokens=1, echo=True)
        assert reply["choices"][0]["message"]["content"].startswith("Once\nupon"), "the role is the answer's"
        _, reply = await it.post(PATH, messages=HELLO, max_tokens=1, echo=True)
        assert not reply["choices"][0]["message"]["content"].startswith("hello"), "the user's is not"


async def test_an_answer_may_be_sent_back_as_libraries_write_it() -> None:
    nothing = {"refusal": None, "tool_calls": None, "function_call": None, "audio": None, "annotations": []}
    template = "{{ messages[1].content }}|{{ messages[1].reasoning }}|{{ messages[1].reasoning_content }}"
    async with served(trust_request_chat_template=True) as it:
        for name in ("reasoning", "reasoning_content"):
            answer = {"role": "assistant", "content": "a", name: "b", **nothing}
            status, reply = await it.post(PATH, messages=[*HELLO, answer], chat_template=template, max_tokens=1)
            assert status == 200, reply
            assert list(it.engine.streams[-1].ids) == TOKENIZER.encode("a|b|b", add_special_tokens=False)
        for name, value in (("audio", {"id": "a"}), ("annotations", [{}]), ("function_call", {"name": "f"})):
            status, _ = await it.post(PATH, messages=[*HELLO, {"role": "assistant", "content": "a", name: value}])
            assert status == 400, name


async def test_a_stream_tells_the_ids_of_the_prompt_once() -> None:
    async with served() as it:
        events = await events_of(it, PATH, messages=HELLO, max_tokens=2, return_token_ids=True)
    told = [event.get("prompt_token_ids") for event in events[:-1]]
    assert told == [ids_of(HELLO), None, None]


async def test_what_would_be_misread_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "role"),
        ({"messages": HELLO, "max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        ({"messages": HELLO, "top_logprobs": 2}, "logprobs"),
        ({"messages": HELLO, "chat_template": "{{ 1 }}"}, "chat_template"),
        ({"messages": HELLO, "chat_template_kwargs": {"tokenize": True}}, "tokenize"),
        ({"messages": HELLO, "chat_template_kwargs": {"messages": "a"}}, "messages"),
        ({"messages": HELLO, "chat_template_kwargs": {"self": 1}}, "chat_template_kwargs is 'self'"),
        ({"messages": HELLO, "chat_template_kwargs": {"a b": 1}}, "a b"),
        ({"messages": HELLO, "chat_template_kwargs": {"a": [1]}}, "chat_template_kwargs"),
        ({"messages": HELLO, "chat_template_kwargs": {f"k{i}": 1 for i in range(17)}}, "chat_template_kwargs"),
        ({"messages": HELLO, "add_generation_prompt": True, "continue_final_message": True}, "add_generation_prompt"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": HELLO, "response_format": {"type": "json"}}, "response_format"),
        ({"messages": HELLO, "logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"messages": HELLO, "logprobs": True, "top_logprobs": -1}, "logprobs"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "logprobs": 1}, "logprobs"),
        ({"messages": HELLO, "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ]
    async with served() as it:
        for body, reason in cases:
            status, reply = await it.post(PATH, **body)
            assert status == 400, (body, reply)
            assert reason in reply["error"]["message"], reply
        assert not it.engine.streams


async def test_templates_of_requests_run_where_they_are_trusted() -> None:
    async with served(trust_request_chat_template=True) as it:
        status, _ = await it.post(
            PATH,
            messages=HELLO,
            chat_template="<{{ messages[0].content }}>{{ x }}",
            chat_template_kwargs={"x": 5},
            max_tokens=1,
        )
        assert status == 200
        assert list(it.engine.streams[-1].ids) == TOKENIZER.encode("<hello>5", add_special_tokens=False)


def calling(*arguments: Any) -> list[dict[str, Any]]:
    """A conversation whose answer calls functions with these."""
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": each}} for each in arguments]
    return [*HELLO, {"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "12", "tool_call_id": "1"}]


SHOWS_CALLS = """
{%- for message in messages %}{% for call in message.tool_calls or [] -%}
{{ call.function.name }}({% for name, value in call.function.arguments.items() %}{{ name }}={{ value }},{% endfor %})
{%- endfor %}{% endfor -%}
"""


async def test_arguments_of_tool_calls_are_objects_to_the_template() -> None:
    given = ['{"city": "Z\\u00fcrich", "n": [1, {"a": null}]}', {"city": "Bern"}, "", None, "{}"]
    async with served(trust_request_chat_template=True) as it:
        status, reply = await it.post(PATH, messages=calling(*given), max_tokens=1, chat_template=SHOWS_CALLS)
        assert status == 200, reply
        (stream,) = it.engine.streams
    assert TOKENIZER.decode(stream.ids) == "f(city=Zürich,n=[1, {'a': None}],)f(city=Bern,)f()f()f()"


async def test_arguments_that_are_no_object_are_refused_by_name() -> None:
    refused = {
        "[1]": "it must be a JSON object",
        "{broken": "it is not JSON",
        '{"a": 1, "a": 2}': "the key 'a' is there twice",
        '{"a": NaN}': "NaN is no JSON number",
        '{"a": "\\ud800"}': "half of a surrogate pair",
        '{"a":' * 20_000: "nested too deeply",
    }
    async with served() as it:
        for path in (PATH, "/tokenize"):
            for text, reason in refused.items():
                status, reply = await it.post(path, messages=calling("{}", text))
                assert status == 400, reason
                assert reply["error"]["param"] == "messages[1].tool_calls[1].function.arguments"
                assert reason in reply["error"]["message"]
                assert len(reply["error"]["message"]) < 400
        for value in (["a"], 7, True):
            status, reply = await it.post(PATH, messages=calling(value))
            assert (status, reply["error"]["param"]) == (400, "messages[1].tool_calls[0].function.arguments")
