"""The messages of a conversation as chat templates see them. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxpaged.errors import PromptError

_REASONING = ("reasoning_content", "thinking", "reasoning")
_MARK = "HereTheLastMessageGoesOn "
"""Put behind the last message, then found in the prompt; whether its space is there tells whether spaces are kept."""


def plain(value: Any, name: str) -> Any:
    """A copy in plain JSON types: a template must not reach the methods of other objects. Raises PromptError."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {plain(key, name): plain(item, name) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item, name) for item in value]
    raise PromptError(name=name, value=value, limit="it may hold JSON values only")


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages without what is null, which templates take for there; reasoning has each of its names.

    Raises PromptError.
    """
    if isinstance(messages, str | bytes) or not all(isinstance(message, Mapping) for message in messages):
        raise PromptError(name="messages", value=messages, limit='each must be {"role": ..., "content": ...}')
    if not messages:
        raise PromptError(name="messages", value=[], limit="there is none", fix="Give at least one")
    return [_with_reasoning(plain(message, "messages")) for message in messages]


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
