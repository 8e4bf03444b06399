"""The reply of GET /status.json: what the status page draws. [no jax]

Times `at` are seconds on the wall clock of the server; the page counts from the reply's own `at`, since its clock may
be another.
"""

from __future__ import annotations

import msgspec

from jaxpaged.ledger import KVLedger
from jaxpaged_server.engine_process.wire import EngineInfo, PoolMap, Runs, StepRecord

MAX_STEPS = 256
"""Steps in one reply, the newest last."""
LATENCY_SPAN_S = 300.0
"""How far back the latency samples go."""


class StatusPhase(msgspec.Struct, frozen=True, kw_only=True):
    """What the server does now. name: "ready" once it serves, "draining" when it ends, else a step of the start.

    done of total: progress of that step, total 0 where it cannot be counted; left_s: None where it is not known.
    """

    name: str
    done: int = 0
    total: int = 0
    left_s: float | None = None


class StatusRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request that holds blocks. tokens: of prompt and answer; computed: of those, in the KV pool; blocks: held."""

    id: int
    tokens: int
    computed: int
    blocks: int


class StatusPool(msgspec.Struct, frozen=True, kw_only=True):
    """The block pool, one number per block.

    classes: the codes of `PoolMap`. owners: index into requests, -1 for none. block_size: tokens.
    """

    classes: Runs
    owners: Runs
    requests: list[StatusRequest]
    block_size: int


class StatusLatency(msgspec.Struct, frozen=True, kw_only=True):
    """Samples (at, seconds) of the last LATENCY_SPAN_S, oldest first."""

    ttft: list[tuple[float, float]] = []
    itl: list[tuple[float, float]] = []


class StatusCompiles(msgspec.Struct, frozen=True, kw_only=True):
    """Compiled steps; those after ready should be none."""

    at_start: int = 0
    after_ready: int = 0


class StatusTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the engine began. cached_tokens: of the prompts, served by the prefix cache."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0


class StatusQueue(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one API key that wait for admission. key: the key's name, never the key itself."""

    key: str
    waiting: int


class StatusReply(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. info, pool and ledger are None until the engine is ready.

    scope: "all", or "key" where who asks may see totals and its own queue only: pool, steps and latencies are left out.
    """

    at: float
    phase: StatusPhase
    model: str
    uptime_s: float
    scope: str = "all"
    info: EngineInfo | None = None
    pool: StatusPool | None = None
    running: int = 0
    waiting: int = 0
    ledger: KVLedger | None = None
    steps: list[StepRecord] = []
    latency: StatusLatency = StatusLatency()
    compiles: StatusCompiles = StatusCompiles()
    totals: StatusTotals = StatusTotals()
    queue: list[StatusQueue] = []


def status_pool(pool: PoolMap, *, block_size: int) -> StatusPool:
    """The engine's map of its pool in the reply's form. block_size: tokens."""
    requests = [
        StatusRequest(id=id, tokens=tokens, computed=computed, blocks=blocks)
        for id, tokens, computed, blocks in pool.requests
    ]
    return StatusPool(classes=pool.classes, owners=pool.owners, requests=requests, block_size=block_size)
