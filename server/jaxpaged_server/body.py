"""The body of a request, read under a deadline and a cap, as JSON only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from jaxpaged_server.access.keys import ANONYMOUS
from jaxpaged_server.api.parse import SHORT_BYTES, Body, BodyError, Neutral, parse_body
from jaxpaged_server.services import KEY, services_of


class BodyTimeoutError(BodyError):
    """The body did not come in time."""


async def read_struct(
    request: web.Request, kind: type[Body], *, refused: Mapping[str, tuple[str, Neutral]] | None = None
) -> Body:
    """The struct in a body; a long one is read beside the event loop.

    Raises what `read_body`, `parse_body` and `TextWorker.aside` do.
    """
    raw = await read_body(request)
    size = 0 if len(raw) <= SHORT_BYTES else len(raw)
    key = request.get(KEY, ANONYMOUS)  # the operator has none
    return await services_of(request).text.aside(key, size, lambda: parse_body(raw, kind, refused=refused))


async def read_body(request: web.Request) -> bytes:
    """The bytes of a JSON body.

    Raises HTTPUnsupportedMediaType for another content type (a page of another site can send forms, but no JSON) and
    for a compressed one, HTTPRequestEntityTooLarge above the cap, BodyTimeoutError.
    """
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="The body's Content-Type must be application/json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="The body must not be compressed")
    settings = services_of(request).settings
    limit_s, most = settings.body_timeout_s, settings.max_body_bytes
    try:
        async with asyncio.timeout(limit_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        told = f"The body is longer than {most} bytes, the server's --max-body-bytes. Send a shorter one"
        raise web.HTTPRequestEntityTooLarge(most, text=told) from None
    except TimeoutError:
        request.protocol.force_close()  # the rest of it may still come, and is no request
        raise BodyTimeoutError(name="body", value="unfinished", limit=f"it must come within {limit_s:g} s") from None
