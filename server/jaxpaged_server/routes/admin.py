"""What an operator may do, on a Unix socket of its own: never on the port that clients reach."""

from __future__ import annotations

import msgspec
from aiohttp import web

from jaxpaged.errors import ParameterError
from jaxpaged_server.body import read_struct
from jaxpaged_server.reply import json_reply
from jaxpaged_server.routes.info import metrics
from jaxpaged_server.routes.status import status
from jaxpaged_server.services import flight_of, services_of


class AbortRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """ids: of the requests to end (as in X-Request-Id); none: all."""

    ids: list[str] | None = None


class AdminReply(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. count: of the requests that it met."""

    status: str
    count: int = 0


async def reset_prefix_cache(request: web.Request) -> web.Response:
    """Forget all cached prefixes."""
    services = services_of(request)
    services.info()
    await services.engine.call("reset_prefix_cache")
    return json_reply(AdminReply(status="ok"))


async def abort_requests(request: web.Request) -> web.Response:
    """End requests in flight; their clients get an error."""
    services = services_of(request)
    body = await read_struct(request, AbortRequest) if request.can_read_body else AbortRequest()
    return json_reply(AdminReply(status="ok", count=services.flights.abort(body.ids, but=flight_of(request))))


async def pause(request: web.Request) -> web.Response:
    """Let nobody in; what runs goes on."""
    services_of(request).admission.pause("paused by its operator", until_resume=True)
    return json_reply(AdminReply(status="paused"))


async def resume(request: web.Request) -> web.Response:
    """Let requests in again."""
    services = services_of(request)
    services.info()
    services.admission.resume()
    return json_reply(AdminReply(status="ok"))


async def start_profile(request: web.Request) -> web.Response:
    """Begin a trace of the engine's steps in --profile-dir."""
    services = services_of(request)
    folder = services.settings.profile_dir
    if folder is None:
        raise ParameterError(name="profile_dir", value=None, limit="none was given", fix="Start with --profile-dir")
    services.info()
    await services.engine.call("start_profile", folder)
    return json_reply(AdminReply(status="profiling"))


async def stop_profile(request: web.Request) -> web.Response:
    """End it, and write it."""
    services = services_of(request)
    services.info()
    await services.engine.call("stop_profile", timeout_s=120.0)
    return json_reply(AdminReply(status="ok"))


ADMIN_ROUTES = (
    ("/reset_prefix_cache", reset_prefix_cache),
    ("/abort_requests", abort_requests),
    ("/pause", pause),
    ("/resume", resume),
    ("/start_profile", start_profile),
    ("/stop_profile", stop_profile),
)
"""All are POST."""
ADMIN_VIEWS = (("/metrics", metrics), ("/status.json", status))
"""All are GET: as on the public port, with the figures of all keys."""
