"""Replies: a struct becomes JSON."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from jaxpaged_server.errors import Failure

_encode = msgspec.json.Encoder().encode


def json_reply(body: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response with this struct."""
    return web.Response(body=_encode(body), status=status, content_type="application/json", headers=headers)


def failure_reply(failure: Failure) -> web.Response:
    """The response that tells of a failure."""
    return json_reply(failure.reply, status=failure.status, headers=failure.headers)
