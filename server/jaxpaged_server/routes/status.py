"""GET /status.json: what the status page draws."""

from __future__ import annotations

import time
from typing import cast

import msgspec
from aiohttp import web

from jaxpaged_server.api.status import (
    StatusCompiles,
    StatusLatency,
    StatusPhase,
    StatusPool,
    StatusQueue,
    StatusReply,
    StatusTotals,
)
from jaxpaged_server.engine_process.wire import EngineInfo
from jaxpaged_server.reply import json_reply
from jaxpaged_server.routes.health import health_of
from jaxpaged_server.services import Services, services_of, visible_key


async def status(request: web.Request) -> web.Response:
    """The block pool, requests, steps and latencies now.

    An ordinary key among several gets totals and its own queue: a block, a step, a latency is another's request.
    """
    services, only = services_of(request), visible_key(request)
    beat, health, snapshot = services.engine.beat, health_of(services), services.metrics.snapshot()
    latencies = services.metrics.latencies() if only is None else None
    reply = StatusReply(
        at=time.time(),
        phase=StatusPhase(name=health.phase, done=health.done, total=health.total, left_s=health.left_s),
        model=services.names[0],
        uptime_s=time.monotonic() - services.began,
        info=_info(services),
        scope="all" if only is None else "key",
        # JSON already
        pool=cast("StatusPool | None", await services.pool_view.json()) if only is None else None,
        running=snapshot.running,
        waiting=snapshot.waiting,
        ledger=None if beat is None else beat.ledger,
        steps=list(services.steps) if only is None else [],
        latency=StatusLatency()
        if latencies is None
        else StatusLatency(ttft=latencies["ttft"]["points"], itl=latencies["itl"]["points"]),
        compiles=StatusCompiles()
        if beat is None
        else StatusCompiles(at_start=beat.metrics.compiles_at_start, after_ready=beat.metrics.compiles_after_ready),
        totals=StatusTotals(
            prompt_tokens=snapshot.prompt_tokens,
            generation_tokens=snapshot.generation_tokens,
            cached_tokens=snapshot.cached_tokens,
            requests=0 if beat is None else beat.metrics.finished,
        ),
        queue=[
            StatusQueue(key=key, waiting=count)
            for key, count in services.admission.waiting_by_key().items()
            if only in (None, key)
        ],
    )
    return json_reply(reply, headers={"Cache-Control": "no-store"})


def _info(services: Services) -> EngineInfo | None:
    """Without the paths that it holds."""
    info = services.engine.info
    return None if info is None else msgspec.structs.replace(info, model=services.names[0], table=[])
