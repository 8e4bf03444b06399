"""What the log is told of requests that failed by no fault of their own."""

from __future__ import annotations

import logging

from jaxpaged_server.errors import Failure
from jaxpaged_server.logs import for_request
from jaxpaged_server.refusals import InternalError

_log = logging.getLogger(__name__)


def log_failure(request_id: str, error: Exception, told: Failure) -> None:
    """A line with a stack, where the failure was not expected. What the engine met in one request is told with its stack
    by its own process, and here is the request's id."""
    log = for_request(_log, request_id)
    if isinstance(error, InternalError):
        log.error("the engine failed at a request: %s", error)
    elif not told.expected:
        log.error("a request failed", exc_info=error)
