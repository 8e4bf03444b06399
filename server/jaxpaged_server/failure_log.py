"""What the log is told of requests that failed by no fault of their own."""

from __future__ import annotations

import logging

from jaxpaged.errors import EngineError
from jaxpaged_server.errors import Failure
from jaxpaged_server.logs import for_request
from jaxpaged_server.refusals import InternalError
from jaxpaged_server.services import Services

_log = logging.getLogger(__name__)


def log_failure(services: Services, request_id: str, error: Exception, told: Failure) -> None:
    """A line with a stack, where the failure was not expected and is not told already.

    An engine's end takes thousands of requests along, and is told by its supervisor, once; what it met in one request
    is told with its stack by its own process, and here is the request's id.
    """
    log = for_request(_log, request_id)
    if isinstance(error, InternalError):
        log.error("the engine failed at a request: %s", error)
    elif not told.expected and not (isinstance(error, EngineError) and services.engine.state.phase != "ready"):
        log.error("a request failed", exc_info=error)
