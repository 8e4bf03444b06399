"""Every error on its way out: the one mapping to an HTTP status and OpenAI's form.

A message names what the caller sent and may change. What broke inside is told to the log only: no path, address or
traceback leaves here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from jaxpaged.errors import (
    CapacityError,
    ChildError,
    ContextLengthError,
    EngineError,
    JaxPagedError,
    RequestError,
    TokenizerError,
)
from jaxpaged_server.api.common import ErrorBody, ErrorReply
from jaxpaged_server.refusals import (
    AbortedError,
    AuthenticationError,
    DeadlineError,
    FailedError,
    InternalError,
    ModelNotFoundError,
    NotReadyError,
    QueueFullError,
    RateLimitedError,
)

INTERNAL = "The server failed at this request; its log says why, under the id in X-Request-Id"
_LOST = "The engine stopped before the end of this request; it is being started again"
_MAX_MESSAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What the caller is told. expected: it is about the request, not about us, and needs no line in the log."""

    status: int
    reply: ErrorReply
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: bool = True


_KINDS: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    # the class, its status, OpenAI's type, OpenAI's code; the first that fits counts
    (AuthenticationError, 401, "authentication_error", "invalid_api_key"),
    (RateLimitedError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (QueueFullError, 429, "rate_limit_error", "queue_full"),
    (NotReadyError, 503, "server_error", "not_ready"),
    (AbortedError, 503, "server_error", "aborted"),
    (FailedError, 500, "server_error", "generation_failed"),
    (DeadlineError, 504, "timeout_error", "deadline_exceeded"),
    (ModelNotFoundError, 404, "not_found_error", "model_not_found"),
    (ContextLengthError, 400, "invalid_request_error", "context_length_exceeded"),
    (CapacityError, 400, "invalid_request_error", "capacity_exceeded"),
    (RequestError, 400, "invalid_request_error", None),
    (TokenizerError, 400, "invalid_request_error", "no_chat_template"),
)
_HTTP_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def failure_of(error: BaseException) -> Failure:
    """What to tell the caller of an exception."""
    for kind, status, kind_name, code in _KINDS:
        if isinstance(error, kind):
            assert isinstance(error, JaxPagedError)
            # a name of two words, as of a prompt's length, is no field that the caller could look for
            named = error.name if status == 400 and " " not in error.name else None
            param = getattr(error, "param", None) or named
            return failure(status, str(error), kind_name, param=param, code=code, headers=_headers(error))
    if isinstance(error, InternalError):
        return failure(500, INTERNAL, "server_error", code="internal_error", expected=False)
    if isinstance(error, ChildError):
        headers = {"Retry-After": "5"}
        return failure(503, str(error), "server_error", code="not_ready", headers=headers, expected=False)
    if isinstance(error, EngineError):
        return failure(503, _LOST, "server_error", code="engine_stopped", headers={"Retry-After": "5"}, expected=False)
    if isinstance(error, web.HTTPException):
        return _of_http(error)
    return failure(500, INTERNAL, "server_error", code="internal_error", expected=False)


def failure(
    status: int,
    message: str,
    kind: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    expected: bool = True,
) -> Failure:
    """A failure in OpenAI's form."""
    text = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}..."
    body = ErrorBody(message=_printable(text), type=kind, param=None if param is None else _printable(param), code=code)
    return Failure(status=status, reply=ErrorReply(error=body), headers=dict(headers or {}), expected=expected)


def _of_http(error: web.HTTPException) -> Failure:
    """aiohttp's own refusals: no such route, wrong method, body too large."""
    status = error.status
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    messages = {
        404: "There is no such route",
        405: f"This route takes {allow.get('Allow', 'another method')}",
        413: error.text or "The body is too large",
        415: error.text or "The body's type is not served",
    }
    kind = _HTTP_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return failure(status, messages.get(status, error.reason), kind, headers=allow)


def _headers(error: Exception) -> dict[str, str]:
    headers: dict[str, str] = {}
    retry_after = getattr(error, "retry_after_s", None)
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, round(retry_after)))
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = error.challenge
    return headers


def _printable(text: str) -> str:
    """Text that JSON and a log line can hold: no half characters, no control characters."""
    if text.isprintable():  # half characters are not
        return text
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in clean)
