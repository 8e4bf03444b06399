"""The messages of a conversation as chat templates see them. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxpaged.errors import PromptError

_REASONING = ("reasoning_content", "thinking", "reasoning")
_MARK = "HereTheLastMessageGoesOn "
"""Put behind the last message, then found in the prompt; whether its space is there tells whether spaces are kept."""

_MOST_DEPTH = 128
"""Objects and lists within each other: schemas of tools have some ten, and what reads it again has its own limits."""
_SHOWN = 120
_Path = tuple[Any, ...]
"""Of a value: its container's path and its key there; () of the whole."""


def plain(value: Any, name: str) -> Any:
    """A copy in plain JSON types: a template must not reach the methods of other objects.

    name: of what it is. Raises PromptError naming the place for other types, keys that are no JSON values, and more
    than 128 levels.
    """
    return _plain(value, name, (), 0)


def _plain(value: Any, name: str, path: _Path, depth: int) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if depth >= _MOST_DEPTH:
        fix = f"Nest at most {_MOST_DEPTH} objects and lists within each other"
        raise PromptError(name=_place(name, path), value=type(value).__name__, limit="it is nested too deeply", fix=fix)
    if isinstance(value, Mapping):
        copied: dict[Any, Any] = {}
        for key, item in value.items():
            if key is not None and not isinstance(key, str | int | float | bool):
                limit = "keys must be strings"
                raise PromptError(name=f"a key of {_place(name, path)}", value=type(key).__name__, limit=limit)
            copied[_plain(key, name, path, depth)] = _plain(item, name, (path, key), depth + 1)
        return copied
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(item, name, (path, i), depth + 1) for i, item in enumerate(value)]
    raise PromptError(name=_place(name, path), value=type(value).__name__, limit="it may hold JSON values only")


def _place(name: str, path: _Path) -> str:
    """As in messages[0]['content']; of a long one the beginning."""
    keys: list[object] = []
    while path:
        path, key = path
        keys.append(key)
    whole = name + "".join(f"[{key[:40]!r}]" if isinstance(key, str) else f"[{key}]" for key in reversed(keys))
    return whole if len(whole) <= _SHOWN else f"{whole[:_SHOWN]}..."


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages without what is null, which templates take for there; reasoning has each of its names.

    Raises PromptError.
    """
    limit = 'each must be {"role": ..., "content": ...}'
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise PromptError(name="messages", value=type(messages).__name__, limit=f"it must be a list; {limit}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise PromptError(name=f"messages[{i}]", value=type(message).__name__, limit=limit)
    if not messages:
        raise PromptError(name="messages", value=[], limit="there is none", fix="Give at least one")
    return [_with_reasoning(plain(message, f"messages[{i}]")) for i, message in enumerate(messages)]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    said = {key: value for key, value in message.items() if value is not None}
    reasoning = next((said[name] for name in _REASONING if name in said), None)
    return said if reasoning is None else {"thinking": reasoning, **said, "reasoning_content": reasoning}


def mark_end(messages: list[dict[str, Any]]) -> str:
    """Put the mark behind the last message's text, in place; returns that text. Raises PromptError."""
    last = messages[-1]
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = content + _MARK
        return content
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            part["text"] = text + _MARK
            return text
    raise _not_there()


def cut_at_mark(prompt: str, text: str) -> str:
    """The prompt up to where the last message's text ends. Raises PromptError where it does not hold it."""
    at = prompt.rfind(_MARK.rstrip())
    if at < 0 or text.strip() not in prompt:
        raise _not_there()
    return prompt[:at] if prompt.startswith(_MARK, at) else prompt[:at].rstrip()


def _not_there() -> PromptError:
    return PromptError(
        name="continue_final_message",
        value=True,
        limit="the last message has no text, or the chat template changes it",
        fix="End with a message whose text the template keeps as it is",
    )
