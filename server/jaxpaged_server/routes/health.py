"""Is it alive, and may it be sent requests? Open to all; says nothing else.

live: the process and its event loop answer. ready: the engine serves, its process beats, and what runs makes progress.
"""

from __future__ import annotations

import time

from aiohttp import web

from jaxpaged_server.api.tokens import HealthReply
from jaxpaged_server.reply import json_reply
from jaxpaged_server.services import Services, services_of

_SILENT_S = 2.0
_STEP_S = 10.0
_USUAL_STEPS = 3
"""A step may take so many times as long as the longest of late, where that is more than `_STEP_S`."""


async def live(request: web.Request) -> web.Response:
    """200 as long as anything answers."""
    phase = services_of(request).engine.state.phase
    return json_reply(HealthReply(status="ok", phase=phase))


async def ready(request: web.Request) -> web.Response:
    """200 or 503, with the phase and how far it is."""
    reply = health_of(services_of(request))
    headers = {"Cache-Control": "no-store"}
    if reply.status != "ok":
        headers["Retry-After"] = str(max(1, round(reply.left_s or 1.0)))
    return json_reply(reply, status=200 if reply.status == "ok" else 503, headers=headers)


def health_of(services: Services) -> HealthReply:
    """What /health/ready says."""
    state = services.engine.state
    phase, detail = state.phase, ""
    if services.draining:
        phase, detail = "draining", "no new requests; those in flight are finished"
    elif phase == "ready" and (stalled := stall_of(services)):
        phase, detail = "stalled", stalled
    elif phase == "ready" and not services.admission.is_open:
        phase, detail = "paused", "an operator has paused the server"
    elif phase == "failed":
        detail = "the engine could not be started; the log says why"
    status = "ok" if phase == "ready" else "unavailable"
    return HealthReply(
        status=status, phase=phase, done=state.done, total=state.total, left_s=state.left_s, detail=detail
    )


def stall_of(services: Services) -> str:
    """What the engine does not get on with; empty where it does. It says how it goes four times a second."""
    beat = services.engine.beat
    if time.monotonic() - services.last_beat > _SILENT_S:
        return "the engine's process says nothing"
    if beat is None:  # it was ready a moment ago
        return ""
    if beat.step_age_s > max(_STEP_S, _USUAL_STEPS * beat.longest_step_s):
        return "the engine's step does not end"
    if beat.waiting and not beat.running and beat.oldest_wait_s > _STEP_S:
        return "the engine's queue does not move"
    return ""


async def ping(request: web.Request) -> web.Response:
    """As SageMaker asks it: 200 with nothing, or 503."""
    ok = health_of(services_of(request)).status == "ok"
    return web.Response(status=200 if ok else 503)
