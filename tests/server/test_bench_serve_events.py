"""Server-sent events out of any bytes, and what counts as a token."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpaged_server.load.events import Chunk, EventReader


def read(*pieces: bytes) -> list[bytes]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def test_events_end_at_empty_lines() -> None:
    assert read(b"data: a\n\ndata: b\n\n") == [b"a", b"b"]


def test_comments_and_other_fields_are_left_out() -> None:
    assert read(b": ping\n\nevent: x\ndata: a\nid: 3\n\nretry: 1\n\n") == [b"a"]


def test_lines_of_one_event_are_joined() -> None:
    assert read(b"data: a\ndata: b\n\n") == [b"a\nb"]


def test_windows_line_ends_and_no_space_after_the_colon() -> None:
    assert read(b"data:a\r\n\r\ndata: b\r\n", b"\r\n") == [b"a", b"b"]


def test_what_has_no_end_yet_is_the_rest() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n\ndata: [DO") == [b"a"]
    assert reader.rest == b"[DO"
    assert reader.feed(b"NE]\n") == []
    assert reader.rest == b"[DONE]"


@given(
    events=st.lists(st.binary(min_size=1, max_size=8).map(bytes.hex), max_size=6),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_where_the_bytes_are_cut_does_not_matter(events: list[str], cuts: list[int], end: bytes) -> None:
    whole = b"".join(b": c" + end + b"data: " + event.encode() + end + end for event in events)
    pieces, at = [], 0
    while at < len(whole):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(whole[at : at + size])
        at += size
    assert read(*pieces) == [event.encode() for event in events]


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        ({"text": "a"}, 1),
        ({"text": ""}, 1),  # a token without text: a special one, or half a character
        ({"text": "", "finish_reason": "length"}, 0),
        ({"text": "abc", "token_ids": [1, 2, 3]}, 3),
        ({"text": "", "token_ids": []}, 0),
        ({"delta": {"role": "assistant", "content": ""}}, 0),  # the role, before any token
        ({"delta": {"content": "a"}, "finish_reason": None}, 1),
        ({"delta": {"reasoning_content": "a"}}, 1),
        ({"delta": {"tool_calls": [{"index": 0}]}}, 1),
        ({"delta": {}, "finish_reason": "stop"}, 0),
    ],
)
def test_tokens_of_a_choice(choice: dict[str, object], count: int) -> None:
    chunk = msgspec.json.decode(msgspec.json.encode({"choices": [choice], "usage": None}), type=Chunk)
    assert chunk.choices is not None
    assert chunk.choices[0].num_tokens == count
