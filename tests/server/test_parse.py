"""Bodies become structs, or are refused by name: JSON's dark corners, unknown fields, wrong types, bounds."""

from __future__ import annotations

import contextlib
import json
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxpaged_server.api import chat, completions, tokens
from jaxpaged_server.api.long_json import MAX_CONTAINERS, MAX_FRACTIONS, MAX_STRINGS, load_long
from jaxpaged_server.api.parse import SHORT_BYTES, BodyError, UnknownFieldError, load_object, parse_body

from jaxpaged.errors import RequestError


def complete(**fields: object) -> completions.CompletionRequest:
    raw = json.dumps({"prompt": "a", **fields}).encode()
    return parse_body(raw, completions.CompletionRequest, refused=completions.REFUSED)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"[1]", "it must be a JSON object"),
        (b"null", "it must be a JSON object"),
        (b"\xff{}", "it must be UTF-8"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' is there twice"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
)
def test_what_is_no_plain_json_object_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(BodyError, match=reason):
        load_object(raw)


def test_escaped_pairs_nul_and_many_keys_are_json() -> None:
    fields = {f"k{i}": i for i in range(50_000)}
    assert len(json.dumps(fields)) > SHORT_BYTES
    assert load_object(json.dumps(fields).encode()) == fields
    assert load_object(b'{"a": "\\ud83d\\ude00\\u0000"}') == {"a": "\N{GRINNING FACE}\0"}


LONG = "a" * SHORT_BYTES
REFUSED_ALIKE = {
    '{"a": NaN}': "NaN is no JSON number",
    '{"a": -Infinity}': "-Infinity is no JSON number",
    '{"a": 1, "b": {"c": [1, {"a": 2, "a": 3}]}}': "the key 'a' is there twice",
    '{"a": 1, "\\u0061": 1}': "the key 'a' is there twice",
    '{"a\\"": 1, "a\\"" : 1}': "the key 'a\"' is there twice",
    '{"a": "\\ud800"}': "half of a surrogate pair",
    '{"a": "\\ud800b"}': "half of a surrogate pair",
    '{"\\udc00": 1}': "half of a surrogate pair",
    '{"a": ' + "9" * 5000 + "}": "too many digits",
    '{"a": 1,\n "b": tru}': "it is not JSON",
    '{"a": 01}': "it is not JSON",
    '{"a": "\x01"}': "it is not JSON",
    '{"a": 1': "it is not JSON",
    "[" * 20_000: "nested too deeply",
    "[1]": "it must be a JSON object",
}


@pytest.mark.parametrize("text", REFUSED_ALIKE, ids=lambda text: text[:24])
def test_a_long_body_is_refused_for_what_a_short_one_is(text: str) -> None:
    for raw in (text, text + " " * SHORT_BYTES, text.replace("{", f'{{"long": "{LONG}", ', 1)):
        with pytest.raises(BodyError, match=re.escape(REFUSED_ALIKE[text])):
            load_object(raw.encode())


def test_a_long_body_is_read_as_a_short_one() -> None:
    texts = ['\\"', "a\\\\", '": {', "\\n:", "\N{GRINNING FACE}", "", "[]"]
    value = {text: [text, 2**64, -(2**63), 10**60, -1.5e-7, 10**20 + 0.0, True, None, {"a": {}}] for text in texts}
    for indent in (None, 1):
        for ascii_only in (True, False):
            raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
            assert load_long(raw) == json.loads(raw) == value
    assert load_long(b'{"a"\n:1,"b" :2}') == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("items", "limit"),
    [
        ("[],", f"more than {MAX_CONTAINERS} lists"),
        ('{"a":1},', f"more than {MAX_STRINGS} texts"),
        ('"a",', f"more than {MAX_STRINGS} texts"),
        ("1.5,", f"more than {MAX_FRACTIONS} fractions"),
        ("[[[[]]]],", f"more than {MAX_CONTAINERS} lists"),
        ("1,", ""),
    ],
)
def test_no_body_takes_long_to_read(items: str, limit: str) -> None:
    raw = b'{"prompt": "a", "metadata": {"a": [%b1]}}' % (items * (2**21 // len(items))).encode()
    took: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        with pytest.raises(BodyError, match=limit) if limit else contextlib.nullcontext():
            parse_body(raw, completions.CompletionRequest)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.1  # `json.loads` with a hook for each object: up to 0.4


def test_a_doubled_key_of_a_long_body_is_found_beside_others() -> None:
    tokens_first = b'{"prompt": [%b1], "metadata": {"a": {"b": 1}}, "model": "a", "model": "b"}' % (b"1," * 10**6)
    with pytest.raises(BodyError, match="'model' is there twice"):
        load_object(tokens_first)


@pytest.mark.parametrize("name", ["n", "temperature", "stop", "stream_options", "logit_bias", "seed", "user", "model"])
def test_null_asks_for_the_default(name: str) -> None:
    assert getattr(complete(**{name: None}), name) is None


@pytest.mark.parametrize("name", sorted(completions.REFUSED))
def test_fields_of_others_are_refused_by_name_unless_they_ask_for_nothing(name: str) -> None:
    assert complete(**{name: None}).prompt == "a"
    with pytest.raises(UnknownFieldError, match=name) as refused:
        complete(**{name: {"anything": 1}})
    assert len(str(refused.value)) < 400


def test_neutral_values_of_refused_fields_pass() -> None:
    assert complete(best_of=1, suffix="", response_format={"type": "text"}).prompt == "a"
    raw = (
        b'{"messages": [{"role": "user", "content": "a"}], "tools": [], "tool_choice": "none", "modalities": ["text"]}'
    )
    assert parse_body(raw, chat.ChatRequest, refused=chat.REFUSED).messages[0].content == "a"


def test_an_unknown_field_is_named_with_its_likely_meaning() -> None:
    with pytest.raises(UnknownFieldError, match=r"temprature is 1: .*Did you mean 'temperature'"):
        complete(temprature=1)


def test_a_long_name_or_value_is_refused_as_fast_as_a_short_one() -> None:
    def seconds(name: str, value: object) -> float:
        raw = json.dumps({"prompt": "a", name: value}).encode()
        began = time.perf_counter()
        load_object(raw)
        read = time.perf_counter()
        with pytest.raises(UnknownFieldError) as refused:
            parse_body(raw, completions.CompletionRequest, refused=completions.REFUSED)
        assert len(str(refused.value)) < 500
        return time.perf_counter() - read - (read - began)

    assert min(seconds("max_tokens" * 200_000, 1) for _ in range(3)) < 0.05
    assert min(seconds("suffix", [1] * 10**6) for _ in range(3)) < 0.05


def test_an_error_shows_the_value_at_fault_and_no_more() -> None:
    messages = [{"role": "user", "content": "a secret"}, {"role": "user", "content": 5}]
    with pytest.raises(BodyError) as refused:
        parse_body(json.dumps({"messages": messages}).encode(), chat.ChatRequest)
    assert str(refused.value) == "messages[1].content is 5: expected `str | array | null`, got `int`"
    with pytest.raises(BodyError, match=r"^prompt\[1\] is True: "):
        complete(prompt=["a", True])


BOUNDS = [
    ("n", 0),
    ("n", 9),
    ("n", 2**31),
    ("n", 2**63),
    ("n", 1.5),
    ("n", True),
    ("n", "1"),
    ("n", [1]),
    ("max_tokens", -1),
    ("max_tokens", 2**31),
    ("logprobs", 2**31),
    ("logprobs", -2),
    ("logprobs", True),
    ("temperature", -0.1),
    ("temperature", 101),
    ("temperature", "hot"),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_k", -2),
    ("min_p", 1.1),
    ("seed", 2**63),
    ("seed", -(2**63) - 1),
    ("stop", [""]),
    ("stop", ["a"] * 17),
    ("stop", "a" * 257),
    ("stop", [1]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [2**31]),
    ("stop_token_ids", [1.0]),
    ("stop_token_ids", [1] * 129),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("repetition_penalty", 0),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"1": 101}),
    ("logit_bias", {str(i): 1 for i in range(513)}),
    ("cache_salt", ""),
    ("cache_salt", "a" * 129),
    ("cache_salt", "a b"),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", 0.99),
    ("timeout", 86_401),
    ("user", "a" * 513),
    ("stream_options", {"include_usage": 1}),
    ("stream_options", {"other": True}),
    ("prompt", 5),
    ("prompt", [[-1]]),
    ("prompt", [["a"]]),
    ("prompt", {}),
    ("request_id", "a/b"),
    ("priority", 1),
]


@pytest.mark.parametrize(("name", "value"), BOUNDS, ids=lambda value: str(value)[:24])
def test_values_out_of_bounds_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError) as refused:
        complete(**{name: value})
    assert name in str(refused.value)
    assert len(str(refused.value)) < 500


def test_one_huge_float_is_refused_where_it_is_bounded() -> None:
    with pytest.raises(BodyError, match="temperature is inf"):
        parse_body(b'{"prompt": "a", "temperature": 1e999}', completions.CompletionRequest)


def test_messages_hold_text_only() -> None:
    def parse(content: object) -> chat.ChatRequest:
        raw = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
        return parse_body(raw, chat.ChatRequest, refused=chat.REFUSED)

    parts = parse([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]).messages[0].content
    assert isinstance(parts, list)
    assert [part.text for part in parts] == ["a", "b"]
    for content in ([{"type": "image_url", "image_url": {"url": "http://x/"}}], [{"type": "text"}], 5, [["a"]]):
        with pytest.raises(BodyError, match="messages"):
            parse(content)


def test_the_number_of_messages_is_bounded() -> None:
    message = {"role": "user", "content": "a"}
    for count, fits in ((1, True), (1024, True), (0, False), (1025, False)):
        raw = json.dumps({"messages": [message] * count}).encode()
        if fits:
            assert len(parse_body(raw, chat.ChatRequest).messages) == count
        else:
            with pytest.raises(BodyError, match="messages"):
                parse_body(raw, chat.ChatRequest)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(raw: bytes) -> None:
    with contextlib.suppress(BodyError):
        assert isinstance(load_object(raw), dict)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4), st.booleans())
def test_any_object_is_the_same_read_either_way(fields: dict[str, object], ascii_only: bool) -> None:
    raw = json.dumps(fields, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    try:
        read = load_object(raw)
    except BodyError:
        with pytest.raises(BodyError):
            load_object(raw + b" " * SHORT_BYTES)
    else:
        assert load_object(raw + b" " * SHORT_BYTES) == read


NAMES = sorted({*completions.CompletionRequest.__struct_encode_fields__, *completions.REFUSED, "other"})


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text of a process loads tables of characters
@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=4))
def test_any_object_is_a_request_or_refused(fields: dict[str, object]) -> None:
    with contextlib.suppress(RequestError):
        parse_body(json.dumps(fields).encode(), completions.CompletionRequest, refused=completions.REFUSED)


def test_detokenize_takes_ids_only() -> None:
    assert parse_body(b'{"tokens": [0, 5]}', tokens.DetokenizeRequest).tokens == [0, 5]
    with pytest.raises(BodyError, match="tokens"):
        parse_body(b'{"tokens": ["a"]}', tokens.DetokenizeRequest)
