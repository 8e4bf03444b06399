"""What the front end and the engine's process say to each other: msgpack in frames over a Unix socket pair.

The pair has no name in the file system, so no other process can join in. Nothing is pickled: both ends decode into
these types and refuse the rest. [no jax]
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from jaxpaged.config import EngineConfig
from jaxpaged.ledger import KVLedger
from jaxpaged.metrics import EngineMetrics
from jaxpaged.request import SamplingParams
from jaxpaged.residency import ResidencyCounts
from jaxpaged.sampling_defaults import SamplingDefaults

MAX_FRAME = 64 * 1024 * 1024
"""Bytes of one message at most. The longest is an `Item` with all the log probabilities of a prompt that a reply may
hold (`api.common.MAX_PROMPT_SCORES`): 20 bytes each, a sixth of this."""
STEP_TOKEN_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper bounds of a histogram of steps by their tokens; vLLM's `iteration_tokens_total` has the same."""
_HEADER = struct.Struct("<I")
_MANY = 1024
"""Log probabilities of one token from which on it goes in a message of its own."""


class Message(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, tag=True):
    """Base of all messages; the class name goes first in the frame."""


# From the front end to the engine.


class Start(Message, frozen=True):
    """The first message: make an engine of this. cache_events: tell of its prefix cache by `CacheEvents`.

    block_share: share of the KV blocks whose residency is measured, for `Beat.residency`; 0: none. estimates: count the
    work of the steps in `Beat.metrics`.
    """

    config: EngineConfig
    cache_events: bool = False
    block_share: float = 0.0
    estimates: bool = False


class Submit(Message, frozen=True):
    """Queue a prompt. id: chosen by the front end, unique for its life. salt: namespace of its cached prefixes.

    followers: (id, parameters) of more requests of the same prompt, which is computed and held once for all of them.
    length_penalty: they are the beams of a search.
    """

    id: int
    ids: list[int]
    params: SamplingParams
    salt: str = ""
    followers: list[tuple[int, SamplingParams]] = []
    length_penalty: float | None = None


class Abort(Message, frozen=True):
    """End these requests now; nothing more is said of them."""

    ids: list[int]


class Finish(Message, frozen=True):
    """The text of a request has met a stop string; nothing more is said of it."""

    id: int


class Call(Message, frozen=True):
    """Ask for something else, answered by a `Reply` of the same number.

    name: "reset_prefix_cache" (bool), "start_profile" (argument: folder), "stop_profile", "pool_map" (PoolMap),
    "fault" (only of an engine started with --faults, for tests; argument: see `faults.Faults`).
    """

    call: int
    name: str
    argument: str = ""


class Stop(Message, frozen=True):
    """Abort what is in flight and exit with status 0."""


# From the engine to the front end.


class Phase(Message, frozen=True):
    """How far the start is. name: "loading" (bytes), "compiling" (programs); total 0: not countable; left_s: seconds.

    left_s is None where nothing is known of it.
    """

    name: str
    done: int = 0
    total: int = 0
    left_s: float | None = None


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the front end must know of a ready engine."""

    model: str  # folder or name
    architecture: str
    max_model_len: int
    vocab: int  # width of the logits: token ids are below
    block_size: int
    num_blocks: int  # the null block included
    num_groups: int  # KV groups: a token takes a place in a block of each
    max_num_seqs: int
    max_num_batched_tokens: int
    max_logprobs: int = 20  # a token; -1: as many as the vocabulary has
    dtype: str
    kv_cache_dtype: str
    quantization: str | None
    enable_prefix_caching: bool
    attention_backend: str
    device: str
    fingerprint: str  # of weights, kernels and config: 16 hex digits
    startup_s: float
    sampling_defaults: SamplingDefaults
    table: list[tuple[str, str]]  # the start-up table, for people


class Ready(Message, frozen=True):
    """The engine serves from now on."""

    info: EngineInfo


class ErrorFields(msgspec.Struct, frozen=True, kw_only=True):
    """A `JaxPagedError`, taken apart. kind: the class's name."""

    kind: str
    name: str
    value: str  # shown, at most 200 characters
    limit: str
    fix: str = ""


class Refused(Message, frozen=True):
    """A `Submit` that the engine does not take."""

    id: int
    error: ErrorFields


Pairs = dict[int, tuple[float, int]]
"""Token id -> (log probability, rank)."""


class Item(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One token, or the end, of one request; see `TokenEvent`.

    logprobs: the chosen token is always among them. num_cached: of its prompt, and queue_s:
    seconds it waited in the engine's queue, both said with the first token. prompt_logprobs: with the first token, one
    entry per prompt token, None for the first.
    """

    id: int
    token: int | None = None
    finish: str | None = None
    stop_reason: int | str | None = None
    num_cached: int = 0
    logprobs: Pairs | None = None
    prompt_logprobs: list[Pairs | None] | None = None
    error: str | None = None
    queue_s: float = 0.0


class Tokens(Message, frozen=True):
    """What one step led to, or a part of it: see `token_messages`."""

    items: list[Item]


class StepRecord(msgspec.Struct, frozen=True, array_like=True):
    """One step, for the timeline. Seconds; `at` is on the wall clock when it was committed.

    plan_s, pack_s, execute_s: what the host did meanwhile for the step after it, where steps overlap.
    """

    at: float
    tokens: int  # computed for requests
    padding: int
    rows: int
    plan_s: float
    pack_s: float
    execute_s: float
    wait_s: float
    commit_s: float


class Beat(Message, frozen=True):
    """Sent four times a second by a thread of its own, so that it comes while a step hangs, too.

    step_age_s: since the step that runs now began, 0 where none runs. steps: those since the beat before, the last 64
    at most. oldest_wait_s: of the queue's first request. waiting: requests in the engine's own queue. longest_step_s:
    of the last 512 to 1024 steps. full_step_s: how long a step of the most tokens takes, by the mean of the largest
    that were seen; 0 before the first. step_token_counts: steps since the start, by the tokens computed for requests:
    at most STEP_TOKEN_BOUNDS[i], in the last entry more. accepted_at: guesses that came true since the start, by their
    place; empty where none are made. residency: of sampled blocks since the start, where that is
    measured.
    """

    metrics: EngineMetrics
    ledger: KVLedger
    running: int
    waiting: int
    step_age_s: float
    oldest_wait_s: float
    longest_step_s: float
    steps: list[StepRecord]
    full_step_s: float = 0.0
    step_token_counts: tuple[int, ...] = ()
    residency: ResidencyCounts | None = None
    accepted_at: tuple[int, ...] = ()


class Stored(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Blocks that entered the prefix cache, each one the continuation of the one before it.

    parent: key of the block that the first one continues, None at the beginning of a prompt. keys: SHA-256. tokens: of
    all of them. salt: their namespace.
    """

    group: int  # of the KV groups
    parent: bytes | None
    keys: list[bytes]
    tokens: list[int]
    salt: str


class Removed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Blocks that were given up."""

    group: int
    keys: list[bytes]


class Cleared(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All blocks of all groups were given up."""


class CacheEvents(Message, frozen=True):
    """What one step changed in the prefix cache, in order; sent where it changed something. at: on the wall clock."""

    at: float
    events: list[Stored | Removed | Cleared]


Runs: TypeAlias = list[int | tuple[int, int]]
"""Numbers in their order, one that comes more than twice in a row as (number, how often)."""


class PoolMap(msgspec.Struct, frozen=True, array_like=True):
    """The block pool as it is now. One number per block, whichever KV group holds it.

    classes: 0 free, 1 cached, 2 live, 3 shared, 4 live with tail slack, 5 null. owners: index into `requests`, -1 for
    none; a shared block shows its first. requests: (id, tokens, computed, blocks).
    """

    classes: Runs
    owners: Runs
    requests: list[tuple[int, int, int, int]]


class Reply(Message, frozen=True):
    """The answer to a `Call`."""

    call: int
    value: Any = None
    error: ErrorFields | None = None


class Broken(Message, frozen=True):
    """The engine could not start, or a step failed; the process exits with status 1 after it."""

    error: ErrorFields
    while_starting: bool


ToEngine = Start | Submit | Abort | Finish | Call | Stop
FromEngine = Phase | Ready | Refused | Tokens | Beat | CacheEvents | Reply | Broken

_encoder = msgspec.msgpack.Encoder()


def frame(message: Message) -> bytes:
    """A message as it goes over the wire: length, little-endian u32, then msgpack."""
    body = _encoder.encode(message)
    assert len(body) <= MAX_FRAME, f"a {type(message).__name__} of {len(body)} bytes"
    return _HEADER.pack(len(body)) + body


class Frames:
    """Takes bytes as they come and gives the bodies that are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def push(self, data: bytes | memoryview) -> list[bytes]:
        """The bodies completed by these bytes. Raises ValueError for a length above MAX_FRAME."""
        buffer, bodies, at = self._buffer, [], 0
        buffer += data
        while len(buffer) - at >= _HEADER.size:
            (length,) = _HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes; the longest may have {MAX_FRAME}")
            if len(buffer) - at - _HEADER.size < length:
                break
            at += _HEADER.size
            bodies.append(bytes(memoryview(buffer)[at : at + length]))
            at += length
        del buffer[:at]
        return bodies


def engine_decoder() -> msgspec.msgpack.Decoder[ToEngine]:
    """Reads what the engine is told."""
    return msgspec.msgpack.Decoder(ToEngine)


def front_decoder() -> msgspec.msgpack.Decoder[FromEngine]:
    """Reads what the engine says."""
    return msgspec.msgpack.Decoder(FromEngine)


def token_messages(items: list[Item]) -> Iterator[Tokens]:
    """Items in messages that are short enough, in their order: the log probabilities of each prompt go alone, and so do
    those of a token where they are many."""
    begin = 0
    for place, item in enumerate(items):
        if item.prompt_logprobs is not None or len(item.logprobs or ()) > _MANY:
            if begin < place:
                yield Tokens(items[begin:place])
            yield Tokens([item])
            begin = place + 1
    if begin < len(items):
        yield Tokens(items[begin:])


def pairs(logprobs: Mapping[int, Any] | None) -> Pairs | None:
    """Logprobs of a `TokenEvent` in the wire's form."""
    return None if logprobs is None else {token: (p.logprob, p.rank or 0) for token, p in logprobs.items()}
