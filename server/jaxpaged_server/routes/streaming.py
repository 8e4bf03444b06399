"""The frame of a streamed reply: its deadline, its errors, its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aiohttp import web

from jaxpaged_server.errors import failure_of
from jaxpaged_server.failure_log import log_failure
from jaxpaged_server.generation import Job
from jaxpaged_server.services import REQUEST_ID, Services, flight_of, services_of
from jaxpaged_server.stream import EventStream


async def stream_reply(
    request: web.Request, services: Services, job: Job, write: Callable[[EventStream], Awaitable[None]]
) -> web.StreamResponse:
    """Stream what `write` sends. An error before the first event has its own status, a later one is an event."""
    async with EventStream(request, keep_alive_s=services.settings.sse_keep_alive_interval) as events:
        events.response.headers.update(services.load_headers(request))
        try:
            async with services.deadline(job.deadline):
                await write(events)
            return await events.end()
        except asyncio.CancelledError:
            if (error := flight_of(request).why()) is None:
                raise
            if not events.begun:
                raise error from None
            await _fail(request, events, error)
            return events.response
        except ConnectionError:  # the reader is gone, or too slow: there is nobody to tell
            request.protocol.force_close()
            return events.response
        except Exception as error:
            if not events.begun:
                raise
            await _fail(request, events, error)
            return events.response
        finally:
            services.metrics.on_sse(events.num_bytes)


async def _fail(request: web.Request, events: EventStream, error: Exception) -> None:
    failure = failure_of(error)
    log_failure(services_of(request), request[REQUEST_ID], error, failure)
    with contextlib.suppress(ConnectionError):  # the reader may be gone by now
        await events.fail(failure.reply)
        await events.response.write_eof()
