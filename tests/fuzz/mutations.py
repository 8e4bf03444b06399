"""Valid JSON documents that a stranger has changed: hypothesis strategies that draw little, so that cases are cheap."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

DEEP = json.loads("[" * 900 + "]" * 900)
HUGE = 10**4000
JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, HUGE),
    *(0.0, -0.0, 0.5, 1.5, -1.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", " ", "a", "A", "0", "-1", "1e9", "null", "../x", "/etc/passwd", "\0", "\ud800", "é", "🙂", "\u202e", "<s>"),
    *("a" * 5000, "日" * 5000, "%s%n", "{{ x }}", "(a+)+$", "[", "\\"),
    *([], {}, [[]], [{}], {"": None}, {"a": {"b": []}}, [0] * 70, [1] * 70, ["a", "b"], [None], DEEP),
    *({"type": "Sequence"}, {"content": 1}, {"String": ""}, {"Regex": ""}, {"Regex": "("}, {"Regex": "(a|a)*b"}),
)
KEYS = ("", "a", "type", "__metadata__", "auto_map", "quantization_config", "text_config", "id", "content", "\ud800")


def _place(draw: st.DrawFn, document: Any) -> tuple[Any, Any] | None:
    """A container of the document and a key of it, or an index; each level is as likely as the next."""
    container, found = document, None
    while isinstance(container, dict | list) and container:
        keys = list(container) if isinstance(container, dict) else range(len(container))
        key = keys[draw(st.integers(0, len(keys) - 1))]
        found = container, key
        if draw(st.integers(0, 2)) == 0:
            break
        container = container[key]
    return found


@st.composite
def documents(draw: st.DrawFn, seed: Any, *, others: tuple[Any, ...] = ()) -> Any:
    """The seed with some values replaced, left out, renamed, swapped, added. others: values more for its places."""
    document = deepcopy(seed)
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, 3)))):
        place = _place(draw, document)
        if place is None:
            break
        container, key = place
        change = draw(st.integers(0, 9))
        if change < 4:
            container[key] = deepcopy(draw(st.sampled_from(JUNK + others)))
        elif change == 4:
            del container[key]
        elif change == 5 and isinstance(container, dict):
            container[draw(st.sampled_from((*KEYS, *map(str.upper, map(str, container)))))] = container.pop(key)
        elif change == 6:
            other = _place(draw, document)
            if other is not None:
                container[key] = deepcopy(other[0][other[1]])
        elif change == 7 and isinstance(container, dict):
            container[draw(st.sampled_from(KEYS))] = deepcopy(draw(st.sampled_from(JUNK + others)))
        elif isinstance(container[key], int):
            container[key] += draw(st.sampled_from((-1, 1, 2, 8, 1000)))
    return document


@st.composite
def texts(draw: st.DrawFn, document: Any) -> bytes:
    """The document's JSON, in one case of six damaged: cut, doubled keys, bytes changed or put in."""
    text = json.dumps(document).encode()
    damage = draw(st.integers(0, 35))
    place = draw(st.integers(0, max(0, len(text) - 1))) if damage < 6 else 0
    if damage == 0:
        return text[:place]
    if damage == 1:
        return text[:place] + draw(st.binary(min_size=1, max_size=4)) + text[place:]
    if damage == 2:
        return text[:place] + draw(st.sampled_from((b",", b"{", b"[", b'"', b"\xff", b"\0", b" "))) + text[place + 1 :]
    if damage == 3:
        return text[:place] + text[place + draw(st.integers(1, 20)) :]
    if damage == 4:
        keys = list(re.finditer(rb'"[^"\\]*": ', text))
        if keys:
            key = keys[place % len(keys)]
            value = json.dumps(draw(st.sampled_from(JUNK))).encode()
            return text[: key.start()] + key[0] + value + b", " + text[key.start() :]
    if damage == 5:
        return draw(st.sampled_from((b"", b"null", b"[]", b'"a"', b"\xef\xbb\xbf" + text, text + text, b"[" * 100_000)))
    return text
