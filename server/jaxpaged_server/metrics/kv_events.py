"""Events of the prefix cache in vLLM's wire format (0.33, distributed/kv_events.py), which fleet routers read.

A batch is a msgpack array [time, events, rank]; an event is a map with its "type". Block hashes are the low 64 bits of
ours, as vLLM sends them by default. Two things differ: hashes are jaxpaged's own, so that a router must learn them from
the events (they carry the tokens), and the salt is told as a digest, since ours may name a client.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from jaxpaged_server.engine_process.wire import CacheEvents, Cleared, EngineInfo, Removed, Stored

MEDIUM = "GPU"
"""What vLLM calls the pool that the model computes with, on every device."""
_HASH_MASK = (1 << 64) - 1


class BlockStored(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """Blocks that follow each other entered the cache; extra_keys has one entry for each."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[str] | None] | None = None
    group_idx: int | None = None


class BlockRemoved(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """Blocks left the cache."""

    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, omit_defaults=True, tag=True):
    """All blocks left the cache."""


class KVEventBatch(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What one step changed. ts: seconds on the wall clock."""

    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


def to_batch(told: CacheEvents, block_size: int, *, rank: int = 0) -> KVEventBatch:
    """The engine's events in vLLM's form. block_size: tokens of a block."""
    events = [_event(event, block_size) for event in told.events]
    return KVEventBatch(ts=told.at, events=events, data_parallel_rank=rank)


def payload(told: CacheEvents, info: EngineInfo | None) -> bytes:
    """The third frame of a message. info: of the engine that told it; None: none was ever ready, so none has blocks."""
    return msgspec.msgpack.encode(to_batch(told, 0 if info is None else info.block_size))


def _event(event: Stored | Removed | Cleared, block_size: int) -> Any:
    match event:
        case Stored():
            extra: list[tuple[str] | None] = [None] * len(event.keys)
            if event.salt and event.parent is None:  # the first block's key alone depends on it directly
                extra[0] = (salt_digest(event.salt),)
            return BlockStored(
                block_hashes=[block_hash(key) for key in event.keys],
                parent_block_hash=None if event.parent is None else block_hash(event.parent),
                token_ids=event.tokens,
                block_size=block_size,
                lora_id=None,
                medium=MEDIUM,
                lora_name=None,
                extra_keys=extra,
                group_idx=event.group,
            )
        case Removed():
            hashes = [block_hash(key) for key in event.keys]
            return BlockRemoved(block_hashes=hashes, medium=MEDIUM, group_idx=event.group)
        case Cleared():
            return AllBlocksCleared()


def block_hash(key: bytes) -> int:
    """A block's key as it is published."""
    return int.from_bytes(key, "big") & _HASH_MASK


def salt_digest(salt: str) -> str:
    """A namespace as it is published: 32 hex digits of its SHA-256."""
    return sha256(salt.encode("utf-8", "surrogatepass")).hexdigest()[:32]
