"""What a parser tells of an answer: pieces of its content, of its reasoning, of its tool calls. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentDelta:
    """More of what is said to the user."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """More of what was thought before."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDelta:
    """More of the call at `index`, from 0. Its first delta has id and name; `arguments` is more of the JSON text."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Delta = ContentDelta | ReasoningDelta | CallDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a function. arguments: as the model wrote them, normally the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A whole answer."""

    content: str
    reasoning: str
    calls: tuple[Call, ...]


def message_of(deltas: Iterable[Delta]) -> Message:
    """The answer that the deltas tell together."""
    content: list[str] = []
    reasoning: list[str] = []
    begun: list[CallDelta] = []
    arguments: list[list[str]] = []
    for delta in deltas:
        match delta:
            case ContentDelta():
                content.append(delta.text)
            case ReasoningDelta():
                reasoning.append(delta.text)
            case CallDelta():
                if delta.index == len(begun):
                    begun.append(delta)
                    arguments.append([])
                arguments[delta.index].append(delta.arguments)
    calls = tuple(
        Call(id=first.id or "", name=first.name or "", arguments="".join(parts))
        for first, parts in zip(begun, arguments, strict=True)
    )
    return Message(content="".join(content), reasoning="".join(reasoning), calls=calls)


def joined(deltas: Iterable[Delta]) -> list[Delta]:
    """The same with neighbours of a kind in one: readers tell brackets and words one by one."""
    said: list[Delta] = []
    parts: list[str] = []
    for delta in deltas:
        last = said[-1] if said else None
        if last is not None and _goes_on(last, delta):
            parts.append(_text(delta))
            continue
        if parts:
            said[-1] = _longer(said[-1], parts)
            parts = []
        said.append(delta)
    if parts:
        said[-1] = _longer(said[-1], parts)
    return said


def _goes_on(last: Delta, delta: Delta) -> bool:
    if isinstance(delta, CallDelta):
        return isinstance(last, CallDelta) and delta.index == last.index and delta.name is None
    return type(last) is type(delta)


def _text(delta: Delta) -> str:
    return delta.arguments if isinstance(delta, CallDelta) else delta.text


def _longer(delta: Delta, parts: list[str]) -> Delta:
    text = _text(delta) + "".join(parts)
    return replace(delta, arguments=text) if isinstance(delta, CallDelta) else replace(delta, text=text)
