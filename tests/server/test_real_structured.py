"""Answers of a form from a real server. Its model knows nothing of forms: what is right is so by the grammar."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from real_server import ROOT, RealServer, real_server

pytestmark = pytest.mark.long
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,6}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA, "strict": True}}
CURL = re.compile(
    r"^\$ curl localhost:8000(\S+) -H 'Content-Type: application/json' -d '(.*?)'(?:\s+#.*)?$", re.MULTILINE
)


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server("--max-num-seqs", "8", "--max-model-len", "512") as server:
        server.wait_ready()
        yield server
        assert server.metric("jaxpaged:engine_restarts_total") == 0
        assert not [line for line in server.lines if "Traceback" in line]


def said(server: RealServer, path: str, **body: Any) -> list[str]:
    """The texts of all answers, each of which ended by itself."""
    least = {"messages": HELLO} if path == CHAT else {"prompt": "a"}
    status, reply = server.request(path, {**least, "max_tokens": 400, **body})
    assert status == 200, reply
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"stop"}, reply
    return [choice["message"]["content"] if path == CHAT else choice["text"] for choice in reply["choices"]]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_every_one_of_several_drawn_answers_is_valid(server: RealServer, path: str) -> None:
    texts = said(server, path, response_format=FORMAT, n=6, seed=3, temperature=1.0)
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) > 1
    assert said(server, path, response_format=FORMAT, n=6, seed=3, temperature=1.0) == texts


def test_a_stream_tells_the_same_text(server: RealServer) -> None:
    (whole,) = said(server, CHAT, response_format=FORMAT, temperature=0)
    body = {"messages": HELLO, "max_tokens": 400, "response_format": FORMAT, "temperature": 0, "stream": True}
    asked = urllib.request.Request(
        server.url + CHAT, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as reply:
        events = [line[6:] for line in reply.read().decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(deltas) == whole
    assert len([delta for delta in deltas if delta]) > 3


def test_forms_of_every_kind_beside_each_other_and_beside_plain_text(server: RealServer) -> None:
    plain = {"prompt": "def f", "max_tokens": 30, "temperature": 0}
    alone = server.request(COMPLETIONS, plain)[1]["choices"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"regex": "[a-f]{3}-[0-9]{2}"}, "[a-f]{3}-[0-9]{2}"),
        ({"choice": ["red", "green", "blue"]}, "red|green|blue"),
        ({"grammar": 'start: ("x" | "y") ":" /[0-9]{2,3}/'}, "[xy]:[0-9]{2,3}"),
        ({"grammar": 'root ::= ("x" | "y") ":" [0-9] [0-9]'}, "[xy]:[0-9]{2}"),
        ({"json": {"type": "boolean"}}, "true|false"),
        ({"structural_tag": {"format": {"type": "const_string", "value": "<a>b</a>"}}}, "<a>b</a>"),
    ]

    def one(i: int) -> Any:
        if i % 2:
            return server.request(COMPLETIONS, plain)[1]["choices"]
        fields, wanted = cases[i // 2 % len(cases)]
        (text,) = said(server, COMPLETIONS, structured_outputs=fields, temperature=1.0, seed=i)
        return re.fullmatch(wanted, text) is not None or text

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(one, range(48)))
    assert told[1::2] == [alone] * 24
    assert told[::2] == [True] * 24


def test_logprobs_are_told_of_what_a_form_let_through(server: RealServer) -> None:
    body = {"prompt": "a", "structured_outputs": {"choice": ["yes", "no"]}, "logprobs": 2, "temperature": 0}
    status, reply = server.request(COMPLETIONS, body)
    assert status == 200, reply
    told = reply["choices"][0]["logprobs"]
    assert "".join(told["tokens"]).removesuffix("<|endoftext|>") in ("yes", "no")
    for token, logprob, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert logprob < 0
        assert top[token] == logprob  # of the model itself: the likeliest ones may be others


def test_nothing_is_compiled_for_a_form(server: RealServer) -> None:
    before = server.metric("jaxpaged:compiles_total", when="ready")
    for i in range(4):
        said(server, CHAT, response_format=FORMAT, n=1 + i, temperature=1.0, seed=i)
    assert server.metric("jaxpaged:compiles_total", when="ready") == before == 0


@pytest.mark.parametrize("page", ["README.md", "docs/SERVER.md"])
def test_examples_of_the_pages_run(server: RealServer, page: str) -> None:
    found = CURL.findall(Path(ROOT, page).read_text(encoding="utf-8"))
    assert found, f"no example in {page}"
    for path, text in found:
        body = json.loads(text)
        status, reply = server.request(path, body)
        assert status == 200, (text, reply)
        if "response_format" in body:
            content = json.loads(reply["choices"][0]["message"]["content"])
            jsonschema.validate(content, body["response_format"]["json_schema"]["schema"])


def test_what_leaves_no_token_together_is_the_callers_fault(server: RealServer) -> None:
    body = {"prompt": "a", "structured_outputs": {"regex": "[0-9]{3}"}, "allowed_token_ids": [300, 301]}
    for stream in (False, True):
        status, reply = server.request(COMPLETIONS, {**body, "stream": stream})
        assert status == 400, reply
        assert "leave no token at position" in reply["error"]["message"]
    assert server.request(COMPLETIONS, {"prompt": "a", "max_tokens": 2})[0] == 200


def test_an_answer_that_repeats_itself_is_ended(server: RealServer) -> None:
    body = {
        "prompt": "a",
        "structured_outputs": {"regex": "a+"},
        "max_tokens": 100,
        "temperature": 0,
        "repetition_detection": {"max_pattern_size": 1, "min_count": 4},
    }
    status, reply = server.request(COMPLETIONS, body)
    assert status == 200, reply
    assert (reply["choices"][0]["finish_reason"], reply["choices"][0]["stop_reason"]) == (
        "repetition",
        "repetition_detected",
    )
    assert reply["usage"]["completion_tokens"] < 100
