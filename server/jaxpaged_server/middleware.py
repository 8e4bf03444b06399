"""What happens around every handler: an id, who is asking, from which page, and every error in one form."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from jaxpaged_server.access.auth import authenticate
from jaxpaged_server.connections import Connections
from jaxpaged_server.errors import failure, failure_of
from jaxpaged_server.failure_log import log_failure
from jaxpaged_server.logs import RequestEntry, access_line
from jaxpaged_server.refusals import AuthenticationError, QueueFullError, RateLimitedError
from jaxpaged_server.reply import failure_reply
from jaxpaged_server.services import FLIGHT, KEY, REQUEST_ID, Services, services_of
from jaxpaged_server.settings import ServerConfig

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/ping"})
"""Answered without a key, by exact path; they tell whether the server lives and no more."""
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def make_middleware(connections: Connections, *, guarded: bool) -> Callable[..., Awaitable[web.StreamResponse]]:
    """The one middleware. guarded: whether keys are asked for (not on the operator's socket)."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        connections.began(request)
        given = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _ID.fullmatch(given) else secrets.token_hex(16)
        services = services_of(request)
        began = time.monotonic()
        status = 499  # the client left
        try:
            response = await _answer(request, handler, services, guarded=guarded)
            status = response.status
            return response
        finally:
            connections.ended(request)
            route = _route_of(request)
            services.metrics.on_reply(route, status)
            if services.settings.enable_log_requests and request.path not in OPEN_PATHS:
                access_line(_entry(request, route, status, time.monotonic() - began))

    return middleware


async def _answer(request: web.Request, handler: Handler, services: Services, *, guarded: bool) -> web.StreamResponse:
    """The handler's response, or the error's."""
    try:
        if guarded:
            refused = _check_origin(request, services)
            if refused is not None:
                return refused
            if request.path in OPEN_PATHS:
                return await handler(request)
            request[KEY] = authenticate(request.headers, services.keys)
        with services.flights.flight(request[REQUEST_ID]) as request[FLIGHT]:
            return await handler(request)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        told = failure_of(error)
        log_failure(services, request[REQUEST_ID], error, told)
        if isinstance(error, QueueFullError | RateLimitedError) and (hold_s := services.admission.hold_s(request[KEY])):
            await asyncio.sleep(hold_s)
        response = failure_reply(told)
        if isinstance(error, AuthenticationError) and "text/html" in request.headers.get("Accept", ""):
            # a browser then asks its user, and sends the key with all that the pages ask for
            response.headers["WWW-Authenticate"] = 'Basic realm="jaxpaged", charset="UTF-8"'
        return response


def _entry(request: web.Request, route: str, status: int, seconds: float) -> RequestEntry:
    """A request's line in the log. One that was refused at the door has no key and no flight."""
    flight, key = request.get(FLIGHT), request.get(KEY)
    return RequestEntry(
        method=request.method,
        route=route,
        status=status,
        ms=1000 * seconds,
        request_id=request[REQUEST_ID],
        prompt_tokens=0 if flight is None else flight.prompt_tokens,
        completion_tokens=0 if flight is None else flight.completion_tokens,
        key_name="" if key is None else key.name,
    )


def _check_origin(request: web.Request, services: Services) -> web.Response | None:
    """Refuse what a page of another site asks for; answer its preflight where that site is allowed.

    Without keys on a loopback address, a name that only points here (DNS rebinding) is another site, too.
    """
    origin, allowed = request.headers.get("Origin"), services.settings.allowed_origins
    if origin is not None and (origin in allowed or "*" in allowed):
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(status=204, headers={**_cors(origin), **_PREFLIGHT})
        return None
    known = services.keys.required or _is_known(_place(f"//{request.host}")[0], services.settings)
    if origin is None:
        # a page sends no Origin with what it reads from its own site, as which a rebound name counts
        if known or request.path in OPEN_PATHS:
            return None
        message = (
            "No key is asked for here, so the server answers to names of this machine only; --allowed-origins adds"
        )
        return failure_reply(failure(403, f"{message} others", "permission_error", code="host_not_allowed"))
    host, netloc = _place(origin)
    if host and known and netloc == request.host.lower():
        return None
    message = "Pages of this origin may not use the server; --allowed-origins would allow it"
    return failure_reply(failure(403, message, "permission_error", code="origin_not_allowed"))


def _is_known(host: str, settings: ServerConfig) -> bool:
    """Whether a server without keys goes by this name. A browser does not reach a Unix socket by any."""
    allowed = settings.allowed_origins
    if settings.uds is not None or not settings.is_loopback or host == "localhost" or "*" in allowed:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in {_place(origin)[0] for origin in allowed}


def _place(url: str) -> tuple[str, str]:
    """The host of a URL, and the host with its port; both empty where it is no URL."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""


_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-Id, X-Request-Timeout",
    "Access-Control-Max-Age": "600",
}


def _cors(origin: str) -> dict[str, str]:
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", "Access-Control-Expose-Headers": "X-Request-Id"}


async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every response."""
    headers = response.headers
    headers["X-Request-Id"] = request.get(REQUEST_ID, "")
    headers["Server"] = "jaxpaged"
    headers.setdefault("X-Content-Type-Options", "nosniff")
    services = services_of(request)
    if services.draining:
        headers["Connection"] = "close"
    origin, allowed = request.headers.get("Origin"), services.settings.allowed_origins
    if origin is not None and (origin in allowed or "*" in allowed):
        headers.update(_cors(origin))


def _route_of(request: web.Request) -> str:
    """The route's template: as many as there are routes, whatever clients ask for."""
    resource = request.match_info.route.resource
    return "(none)" if resource is None else resource.canonical
