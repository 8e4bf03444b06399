"""What aiohttp answers by itself, before any route and middleware, in OpenAI's form like everything else."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from jaxpaged_server.errors import Failure, failure, failure_of
from jaxpaged_server.reply import failure_reply
from jaxpaged_server.services import REQUEST_ID

_HEADERS = {  # there is no `on_prepare` where there is no request
    "Server": "jaxpaged",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger(__name__)


def protocols_of(server: web.Server, **options: Any) -> Callable[[], asyncio.BaseProtocol]:
    """A factory of connections' protocols. options: of aiohttp's `RequestHandler`."""
    loop, handle = asyncio.get_running_loop(), server.request_handler

    async def handle_unless_refused(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handle(request)
        except web.HTTPExpectationFailed:  # it is raised before the middleware
            request[REQUEST_ID] = secrets.token_hex(16)
            told = "The server meets no expectation but 100-continue"
            return failure_reply(failure(417, told, "invalid_request_error"))

    server.request_handler = handle_unless_refused
    return lambda: _Protocol(server, loop=loop, **options)


class _Protocol(web.RequestHandler):
    """aiohttp's connection, which tells errors otherwise: its own are text, and quote what was sent."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        del message
        if status >= 500:
            _log.error("a request failed outside of its handler", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun, and no other one can be sent")
        response = failure_reply(_malformed(exc) if status < 500 else failure_of(exc or TimeoutError()))
        response.headers.update(_HEADERS)
        response.headers["X-Request-Id"] = secrets.token_hex(16)
        response.force_close()
        return response


def _malformed(error: BaseException | None) -> Failure:
    told = "The request is not valid HTTP/1.1"
    if isinstance(error, LineTooLong):
        told = "A line of the request's head is too long"
    return failure(400, told, "invalid_request_error", code="malformed_request")
