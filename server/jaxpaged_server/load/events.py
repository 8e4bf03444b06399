"""Server-sent events read out of bytes as they come, and the parts of a completion chunk that a client measures."""

from __future__ import annotations

from typing import Any

import msgspec

DONE = b"[DONE]"
_MOST_BYTES = 64 * 1024 * 1024


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chat chunk adds to the answer."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Any = None

    @property
    def text(self) -> str:
        return self.content or self.reasoning_content or self.reasoning or ""


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer's part of a chunk, of either endpoint."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None

    @property
    def new_text(self) -> str:
        return self.text or (self.delta.text if self.delta else "")

    @property
    def num_tokens(self) -> int:
        """Tokens it brings, where the chunk does not count them itself: as many as ids, else 1 or 0.

        A completion's chunk without text and without an end is a token that has no text (a special one, half a
        character); a chat's is the one that names the role.
        """
        if self.token_ids is not None:
            return len(self.token_ids)
        if self.new_text or (self.delta is not None and self.delta.tool_calls):
            return 1
        return int(self.delta is None and self.finish_reason is None)


class CachedTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Details of a usage."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of tokens so far, or of the whole answer."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of one event."""

    choices: list[ChunkChoice] | None = None
    usage: Usage | None = None
    error: Any = None


class EventReader:
    """Cuts a stream of bytes into the data of its events; comments and other fields are left out."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def rest(self) -> bytes:
        """The data of an event that has begun and whose end has not come."""
        return _data(self._rest.strip()) or b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes. Raises ValueError for one that never ends."""
        buffer = self._rest + data
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        *whole, self._rest = buffer.split(b"\n\n")
        if len(self._rest) > _MOST_BYTES:
            raise ValueError(f"an event of more than {_MOST_BYTES >> 20} MiB")
        return [found for event in whole if (found := _data(event)) is not None]


def _data(event: bytes) -> bytes | None:
    """The data lines of an event, None where it has none."""
    if event.startswith(b"data:") and b"\n" not in event:  # nearly all
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
