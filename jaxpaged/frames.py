"""What a child that answers questions is asked and says: frames, each after its length. [host half: no jax]"""

from __future__ import annotations

from typing import BinaryIO

from jaxpaged.errors import ChildError

LENGTH_BYTES = 4
"""Of a frame's length, little-endian, before its body."""
READY = bytes(LENGTH_BYTES)
"""What a child says first, an empty frame: from here on time is that of what it is asked."""
START_S = 20.0
"""Seconds that it may take to say so."""


def framed(body: bytes) -> bytes:
    """The body, with its length before it."""
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def next_frame(stream: BinaryIO) -> bytes | None:
    """The body of the next frame, None at the end."""
    header = stream.read(LENGTH_BYTES)
    length = int.from_bytes(header, "little")
    body = stream.read(length) if len(header) == LENGTH_BYTES else b""
    return body if len(header) == LENGTH_BYTES and len(body) == length else None


def not_started(name: str, why: str) -> ChildError:
    """The error of a child, called so, that was not ready in time, or ended before that: it was asked nothing yet."""
    fix = "Ask again when the machine has less to do; what the process wrote to stderr may tell more"
    return ChildError(name=name, value=why, limit=f"it must start within {START_S:g} s", fix=fix)
