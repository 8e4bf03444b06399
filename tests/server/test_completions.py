"""/v1/completions over a scripted engine: the forms of prompts, replies, streams, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest
from jaxpaged_server import generation
from jaxpaged_server import reply as replies
from jaxpaged_server.api.common import MAX_PROMPT_SCORES
from jaxpaged_server.engine_process.wire import MAX_FRAME, Item, Tokens, frame
from jaxpaged_server.routes import completions
from scripted_engine import INFO, ScriptedEngine, ScriptedStream, next_token
from served import Served, events_of, served

from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer

TOKENIZER = Tokenizer.load(TINY_MODEL)
PATH = "/v1/completions"


def text_of(ids: list[int], count: int) -> str:
    return TOKENIZER.decode([next_token(ids, i) for i in range(count)])


async def test_a_reply_has_openais_form() -> None:
    async with served() as it:
        status, reply = await it.post(PATH, prompt=[5, 6, 7], max_tokens=3)
    assert status == 200
    assert reply["id"].startswith("cmpl-")
    assert {name: reply[name] for name in ("object", "model", "system_fingerprint", "usage")} == {
        "object": "text_completion",
        "model": "tiny",
        "system_fingerprint": "fp_0123456789abcdef",
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert reply["choices"] == [
        {
            "index": 0,
            "text": text_of([5, 6, 7], 3),
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ]


async def test_prompts_may_be_texts_ids_and_lists_of_both() -> None:
    ids = TOKENIZER.encode("def f")
    cases: list[tuple[Any, list[list[int]]]] = [
        ("def f", [ids]),
        (["def f", "def f"], [ids, ids]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ]
    async with served() as it:
        for prompt, expected in cases:
            it.engine.streams.clear()
            status, reply = await it.post(PATH, prompt=prompt, max_tokens=2)
            assert status == 200, reply
            assert sorted(list(stream.ids) for stream in it.engine.streams) == sorted(expected)
            assert [choice["text"] for choice in reply["choices"]] == [text_of(each, 2) for each in expected]


async def test_n_answers_are_drawn_from_seeds_of_their_own() -> None:
    async with served() as it:
        status, reply = await it.post(PATH, prompt=[[1], [2]], n=2, best_of=2, seed=10, max_tokens=2)
        assert status == 200
        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
        assert sorted((stream.ids[0], stream.params.seed) for stream in it.engine.streams) == [
            (1, 10),
            (1, 11),
            (2, 10),
            (2, 11),
        ]
        assert it.engine.forks == [2, 2]  # the answers to a prompt go to the engine together
        assert reply["usage"]["prompt_tokens"] == 2
        assert reply["usage"]["completion_tokens"] == 8


async def test_the_best_of_several_answers_are_told() -> None:
    async with served() as it:
        status, reply = await it.post(PATH, prompt=[[1], [2]], n=2, best_of=3, seed=10, max_tokens=2)
        assert status == 200
        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
        assert [choice["logprobs"] for choice in reply["choices"]] == [None] * 4
        assert it.engine.forks == [3, 3]
        assert [stream.params.logprobs for stream in it.engine.streams] == [0] * 6
        assert reply["usage"]["completion_tokens"] == 12  # of all that was computed
        status, reply = await it.post(PATH, prompt=[1], n=1, best_of=2, stream=True)
        assert status == 400
        assert reply["error"]["param"] == "best_of"


async def test_a_beam_search_takes_one_turn_and_tells_its_sequences() -> None:
    async with served() as it:
        status, reply = await it.post(
            PATH, prompt=[[1], [2]], n=3, use_beam_search=True, length_penalty=0.5, max_tokens=2
        )
        assert status == 200, reply
        assert [choice["index"] for choice in reply["choices"]] == list(range(6))
        assert (it.engine.forks, it.engine.searches) == ([3, 3], [0.5, 0.5])
        assert [(stream.params.logprobs, stream.params.temperature) for stream in it.engine.streams] == [(6, 0.0)] * 6
        status, reply = await it.post(PATH, prompt=[1], use_beam_search=True, max_tokens=2, stop_token_ids=[5])
        assert (status, it.engine.forks[-1], it.engine.streams[-1].params.stop_ids) == (200, 1, (5,))


async def test_the_beams_of_a_search_count_as_answers_at_the_door() -> None:
    inside: list[int] = []

    async def pace(stream: ScriptedStream) -> int:
        inside.append(it.services.admission.num_inside)
        return 1

    async with served(ScriptedEngine(pace)) as it:
        status, _ = await it.post(PATH, prompt=[[1], [2]], n=3, use_beam_search=True, max_tokens=2)
        assert (status, inside[0]) == (200, 6)


async def test_what_is_computed_for_the_best_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int | None] = []
    async with served() as it:
        for fields, name in (({"n": 2, "best_of": 5}, "best_of"), ({"n": 5}, "n")):
            status, reply = await it.post(PATH, prompt=[[1], [2]], max_tokens=1, **fields)
            assert status == 400
            assert reply["error"]["message"].startswith(f"prompts x {name} is 10")
        monkeypatch.setattr(it.services.metrics, "on_request", lambda figures: told.append(figures.n))
        status, reply = await it.post(PATH, prompt=[1], n=2, best_of=3, max_tokens=1)
        assert status == 200, reply
    assert sorted(told, key=str) == [2, None, None]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"stop": "a"}, "stop"),
        ({"stream": True}, "stream"),
        ({"best_of": 4}, "best_of"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"use_beam_search": False, "length_penalty": 2.0}, "length_penalty"),
    ],
)
async def test_what_a_beam_search_does_not_have(fields: dict[str, Any], name: str) -> None:
    async with served() as it:
        status, reply = await it.post(PATH, **({"prompt": [1], "n": 2, "use_beam_search": True} | fields))
    assert (status, reply["error"]["param"]) == (400, name)


async def test_a_stream_tells_the_same_text_and_ends_with_done() -> None:
    async with served() as it:
        events = await events_of(it, prompt=[1, 2], max_tokens=5, stream_options={"include_usage": True})
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 5
    assert "".join(event["choices"][0]["text"] for event in events[:-2]) == text_of([1, 2], 5)
    assert [event["choices"][0]["finish_reason"] for event in events[:-2]] == [None] * 4 + ["length"]
    assert all("usage" not in event for event in events[:-2])
    assert len({event["id"] for event in events[:-1]}) == 1


async def test_usage_may_come_with_every_event() -> None:
    async with served() as it:
        events = await events_of(it, prompt=[1], max_tokens=3, stream_options={"continuous_usage_stats": True})
    assert [event["usage"]["completion_tokens"] for event in events[:-1]] == [1, 2, 3]


async def test_tokens_that_pile_up_behind_a_slow_reader_are_one_event() -> None:
    async def pace(stream: ScriptedStream) -> int:
        await asyncio.sleep(0)
        return 1 if stream.sent == 0 else 64

    async with served(ScriptedEngine(pace)) as it:
        events = await events_of(it, prompt=[1], max_tokens=40)
    assert len(events) == 3
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == text_of([1], 40)


async def test_a_stream_may_gather_tokens_after_the_first() -> None:
    async with served(stream_interval=4) as it:
        events = await events_of(it, prompt=[1], max_tokens=10, return_token_ids=True)
    assert [len(event["choices"][0]["token_ids"]) for event in events[:-1]] == [1, 4, 4, 1]
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == text_of([1], 10)


async def test_echo_puts_the_prompt_before_the_answer() -> None:
    async with served() as it:
        _, reply = await it.post(PATH, prompt="def f", echo=True, max_tokens=2)
        assert reply["choices"][0]["text"] == "def f" + text_of(TOKENIZER.encode("def f"), 2)
        _, reply = await it.post(PATH, prompt=[300, 301], echo=True, max_tokens=2)
        assert reply["choices"][0]["text"] == TOKENIZER.decode([300, 301]) + text_of([300, 301], 2)
        events = await events_of(it, prompt="def f", echo=True, max_tokens=2)
        assert "".join(event["choices"][0]["text"] for event in events[:-1]) == reply_text(it, "def f")


def reply_text(it: Served, prompt: str) -> str:
    del it
    return prompt + text_of(TOKENIZER.encode(prompt), 2)


async def test_an_echoed_prompt_has_its_logprobs_and_may_have_no_answer() -> None:
    scored = {"prompt": [300, 301, 302], "echo": True, "max_tokens": 0, "logprobs": 1, "return_token_ids": True}
    drawn = next_token([300, 301, 302], 0)  # by the engine, which always draws one
    async with served() as it:
        status, reply = await it.post(PATH, **scored, stop_token_ids=[drawn])
        (event, _) = await events_of(it, **scored)
    assert status == 200, reply
    choice = reply["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"], choice["token_ids"]) == ("length", None, [])
    assert event["choices"] == [choice]
    pieces, likeliest = [TOKENIZER.decode([token]) for token in (300, 301, 302)], TOKENIZER.decode([900])
    assert choice["text"] == "".join(pieces)
    assert choice["logprobs"] == {
        "text_offset": [0, len(pieces[0]), len(pieces[0]) + len(pieces[1])],
        "token_logprobs": [None, -2.0, -2.0],
        "tokens": pieces,
        "top_logprobs": [None, {likeliest: -0.5, pieces[1]: -2.0}, {likeliest: -0.5, pieces[2]: -2.0}],
    }
    assert reply["usage"]["completion_tokens"] == 0


async def test_a_prompts_log_probabilities_have_as_many_alternatives_as_were_asked_for_them() -> None:
    def place(token: int, logprob: float, rank: int) -> dict[str, Any]:
        return {str(token): {"logprob": logprob, "rank": rank, "decoded_token": TOKENIZER.decode([token])}}

    own, first, second = place(301, -2.0, 3), place(900, -0.5, 1), place(901, -1.5, 2)
    async with served() as it:
        for wanted, expected in ((0, own), (1, own | first), (2, own | first | second)):
            _, reply = await it.post(
                PATH, prompt=[300, 301], max_tokens=1, prompt_logprobs=wanted, echo=True, logprobs=2
            )
            assert reply["choices"][0]["prompt_logprobs"] == [None, expected]


async def test_logprobs_hold_the_token_and_the_asked_number_of_alternatives() -> None:
    async with served() as it:
        _, reply = await it.post(PATH, prompt=[1], max_tokens=2, logprobs=2, return_tokens_as_token_ids=True)
    first = next_token([1], 0)
    told = reply["choices"][0]["logprobs"]
    assert told["tokens"] == [f"token_id:{first}", f"token_id:{first + 1}"]
    assert told["token_logprobs"] == [-0.5, -0.5]
    assert told["top_logprobs"][0] == {f"token_id:{first}": -0.5, f"token_id:{first + 1}": -1.5}


async def test_a_stop_string_ends_the_request_below_and_is_told() -> None:
    answer = text_of([1], 12)
    stop = answer[5:7]
    async with served() as it:
        _, reply = await it.post(PATH, prompt=[1], max_tokens=12, stop=stop)
        (stream,) = it.engine.streams
        assert stream.finished
    assert reply["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "text": answer[: answer.index(stop)],
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": stop,
    }


async def test_what_the_model_cannot_do_is_refused_before_it_is_asked() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"prompt": "", "max_tokens": 1}, "prompt"),
        ({"prompt": [], "max_tokens": 1}, "prompt"),
        ({"prompt": [[]], "max_tokens": 1}, "prompt"),
        ({"prompt": ["a", [1]]}, "mixture"),
        ({"prompt": [1, "a"]}, "mixture"),
        ({"prompt": [4096]}, "token ids go from 0 to 4095"),
        ({"prompt": [2**31 - 1]}, "token ids go from 0 to 4095"),
        ({"prompt": [1] * 256}, "max_model_len=256"),
        ({"prompt": [1], "max_tokens": 256}, "max_model_len=256"),
        ({"prompt": ["a"] * 33}, "32 prompts"),
        ({"prompt": ["a"] * 5, "n": 2}, "max_num_seqs=8"),
        ({"prompt": "a", "stop_token_ids": [4096]}, "stop_token_ids"),
        ({"prompt": "a", "logit_bias": {"4096": 1}}, "logit_bias"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "n": 2, "best_of": 1}, "best_of"),
        ({"prompt": "a", "min_tokens": 20}, "min_tokens"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": "a", "echo": 1}, "echo"),
        ({"max_tokens": 1}, "prompt"),
    ]
    async with served() as it:
        for body, reason in cases:
            status, reply = await it.post(PATH, **body)
            assert status == 400, body
            assert set(reply) == {"error"}
            assert set(reply["error"]) == {"message", "type", "param", "code"}
            assert reply["error"]["type"] == "invalid_request_error"
            assert reason in reply["error"]["message"], reply
        assert not it.engine.streams
        _, reply = await it.post(PATH, prompt="")
        assert reply["error"]["message"] == "prompt is '': it has no token. Give at least one"
        status, reply = await it.post(PATH, prompt="a", model="other")
        assert (status, reply["error"]["code"]) == (404, "model_not_found")
        for too_long in ({"prompt": [1] * 300}, {"prompt": [1] * 200, "max_tokens": 57}):
            status, reply = await it.post(PATH, **too_long)
            assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")
            assert reply["error"]["param"] is None, "there is no field of that name"
            # litellm and agents tell this error by these words, and shorten the prompt
            assert "this model's maximum context length is 256 tokens" in reply["error"]["message"]


async def test_log_probabilities_of_prompts_are_bounded_by_what_a_message_may_hold() -> None:
    info = msgspec.structs.replace(INFO, max_model_len=300_000)
    async with served() as it:
        it.engine.info = info
        longest = MAX_PROMPT_SCORES // 21
        for body in ({"prompt_logprobs": 20}, {"echo": True, "logprobs": 20}, {"prompt_logprobs": 1, "n": 8}):
            status, reply = await it.post(PATH, prompt=[7] * (MAX_PROMPT_SCORES // 16 + 1), max_tokens=1, **body)
            assert status == 400, body
            assert str(MAX_PROMPT_SCORES) in reply["error"]["message"]
        status, _ = await it.post(PATH, prompt=[7] * longest, max_tokens=1, prompt_logprobs=20)
        assert status == 200
    places: list[dict[int, tuple[float, int]] | None]
    places = [{2**32 - 1 - i: (-1.25, 2**32 - 1) for i in range(21)}] * longest
    assert len(frame(Tokens([Item(2**32, 1, prompt_logprobs=places)]))) < MAX_FRAME // 5


async def test_a_reply_of_many_log_probabilities_is_made_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    makers: list[threading.Thread] = []
    encode = replies.json_reply

    def noting(*args: Any, **kwargs: Any) -> Any:
        makers.append(threading.current_thread())
        return encode(*args, **kwargs)

    for name in ("completions", "chat"):
        monkeypatch.setattr(f"jaxpaged_server.routes.{name}.json_reply", noting)
    messages = [{"role": "user", "content": "a"}]
    async with served() as it:
        it.engine.info = msgspec.structs.replace(INFO, max_model_len=5000)
        await it.post(PATH, prompt=[300] * 2000, max_tokens=1, prompt_logprobs=1)
        await it.post("/v1/chat/completions", messages=messages, max_tokens=120, logprobs=True, top_logprobs=20)
        await it.post(PATH, prompt=[300] * 9, max_tokens=9, prompt_logprobs=1)
    assert [thread is threading.main_thread() for thread in makers] == [False, False, True]


async def test_a_prompts_log_probabilities_are_first_touched_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[threading.Thread] = []
    tell = completions.completion_logprobs

    def noting(*args: Any, **kwargs: Any) -> Any:
        told.append(threading.current_thread())
        return tell(*args, **kwargs)

    def never(**kwargs: Any) -> None:
        raise AssertionError(f"a prompt's log probability became an object on the event loop: {kwargs}")

    monkeypatch.setattr(completions, "completion_logprobs", noting)
    monkeypatch.setattr(generation, "Logprob", never)
    async with served() as it:
        it.engine.info = msgspec.structs.replace(INFO, max_model_len=5000)
        status, reply = await it.post(PATH, prompt=[300] * 2000, max_tokens=1, prompt_logprobs=20)
        assert (status, len(reply["choices"][0]["prompt_logprobs"])) == (200, 2000)
        monkeypatch.undo()
        monkeypatch.setattr(completions, "completion_logprobs", noting)
        events = await events_of(it, prompt=[300] * 2000, max_tokens=3, echo=True, logprobs=20)
        assert len(events[0]["choices"][0]["logprobs"]["tokens"]) == 2001
    assert [thread is threading.main_thread() for thread in told] == [False, True, True]


async def test_a_quiet_stream_is_kept_alive_by_comments() -> None:
    async def pace(stream: ScriptedStream) -> int:
        await asyncio.sleep(0.3)
        return 1

    async with (
        served(ScriptedEngine(pace), sse_keep_alive_interval=0.1) as it,
        it.client.post(PATH, json={"prompt": [1], "max_tokens": 1, "stream": True}) as response,
    ):
        raw = await response.read()
    assert raw.startswith(b": keep-alive\n\n")
    assert raw.count(b"data: ") == 2
    assert raw.endswith(b"data: [DONE]\n\n")
