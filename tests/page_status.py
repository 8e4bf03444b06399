"""Status replies for the pages' tests: a pool of 512 blocks with whatever a test puts in it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence

import msgspec
from beats import engine_info
from jaxpaged_server.api.status import (
    StatusCompiles,
    StatusLatency,
    StatusPhase,
    StatusQueue,
    StatusReply,
    StatusTotals,
    status_pool,
)
from jaxpaged_server.engine_process.runs import runs_of
from jaxpaged_server.engine_process.wire import PoolMap, StepRecord
from long_runs import numbers_of

from jaxpaged.ledger import KVLedger

BLOCKS = 512
P = 16
MAX_LEN = 2048
FREE, CACHED, LIVE, SHARED, TAIL, NULL = range(6)

INFO = engine_info(
    model="tiny-stories",
    architecture="Qwen3ForCausalLM",
    max_model_len=MAX_LEN,
    vocab=8192,
    block_size=P,
    num_blocks=BLOCKS,
    max_num_seqs=32,
    max_num_batched_tokens=2048,
    startup_s=6.25,
)


def idle() -> StatusReply:
    """A ready server with an empty pool."""
    pool = PoolMap(classes=[NULL, (FREE, BLOCKS - 1)], owners=[(-1, BLOCKS)], requests=[])
    return StatusReply(
        at=time.time(),
        phase=StatusPhase(name="ready"),
        model="tiny-stories",
        uptime_s=3725.0,
        info=INFO,
        pool=status_pool(pool, block_size=P),
        ledger=ledger_of(pool),
        compiles=StatusCompiles(at_start=24),
    )


def starting() -> StatusReply:
    """Compiling 7 of 24 shapes, nothing else known."""
    phase = StatusPhase(name="compiling", done=7, total=24, left_s=12.0)
    return StatusReply(at=time.time(), phase=phase, model="tiny-stories", uptime_s=9.0)


def ledger_of(pool: PoolMap) -> KVLedger:
    """The ledger that such a map has; the tail blocks are half full."""
    blocks = [numbers_of(pool.classes).count(code) for code in range(6)]
    return KVLedger(
        live=blocks[LIVE] * P + blocks[TAIL] * P // 2,
        behind=0,
        shared=blocks[SHARED] * P,
        tail=blocks[TAIL] * P // 2,
        cached=blocks[CACHED] * P,
        free=blocks[FREE] * P,
        null=P,
        tokens=sum(computed for _, _, computed, _ in pool.requests),
        contiguous=len(pool.requests) * MAX_LEN,
    )


def pool_of(requests: Sequence[tuple[int, int, int]], *, shared: int = 0, cached: int = 0) -> PoolMap:
    """A map where `requests` (id, tokens, computed) hold blocks in turn, the first `shared` of them together."""
    classes = [FREE] * BLOCKS
    owners = [-1] * BLOCKS
    classes[0] = NULL
    at = 1
    for block in range(at, at + shared):
        classes[block], owners[block] = SHARED, 0
    at += shared
    rows = []
    for index, (id, tokens, computed) in enumerate(requests):
        own = max(1, math.ceil(tokens / P) - shared)
        for block in range(at, at + own):
            classes[block], owners[block] = LIVE, index
        classes[at + own - 1] = TAIL
        at += own
        rows.append((id, tokens, computed, own + shared))
    for block in range(at + 7, at + 7 + cached):
        classes[block] = CACHED
    return PoolMap(classes=runs_of(classes), owners=runs_of(owners), requests=rows)


def busy(seed: int = 0) -> StatusReply:
    """Fourteen requests, a queue, five minutes of latencies and two hundred steps."""
    draw = random.Random(seed)
    now = time.time()
    requests = [(100 + at, tokens := draw.randrange(60, 420), tokens - 1) for at in range(13)]
    requests.append((113, 900, 512))
    pool = pool_of(requests, shared=4, cached=90)
    itl = [(now - 280 + at * 0.28, 0.011 * draw.lognormvariate(0, 0.25)) for at in range(1000)]
    ttft = [(now - 280 + at * 4.5, 0.060 * draw.lognormvariate(0, 0.5)) for at in range(62)]
    steps = []
    for at in range(200):
        prefill = at % 23 == 7
        rows = draw.randrange(8, 15)
        tokens = rows + (480 if prefill else 0)
        wait = draw.uniform(0.006, 0.008) * (3.2 if prefill else 1)
        record = (0.0004, 0.0003, draw.uniform(0.0006, 0.0012), wait, draw.uniform(0.0004, 0.0009))
        fields = dict(zip(("plan_s", "pack_s", "execute_s", "wait_s", "commit_s"), record, strict=True))
        steps.append(StepRecord(at=now - (200 - at) * 0.011, tokens=tokens, padding=16 - rows, rows=rows, **fields))
    return msgspec.structs.replace(
        idle(),
        pool=status_pool(pool, block_size=P),
        ledger=ledger_of(pool),
        running=14,
        waiting=9,
        steps=steps,
        latency=StatusLatency(ttft=ttft, itl=itl),
        totals=StatusTotals(prompt_tokens=91_204, generation_tokens=184_551, cached_tokens=40_112, requests=1_377),
        queue=[StatusQueue(key="research", waiting=6), StatusQueue(key="web", waiting=3)],
    )
