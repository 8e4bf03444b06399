"""Errors of a server that turns a request away: it may be a good one, but not from this caller, or not now.

Owns the types; their HTTP statuses are in the one mapping, `errors.py`. None ever holds a key or a part of one.
"""

from __future__ import annotations

from jaxpaged.errors import JaxPagedError

__all__ = [
    "AbortedError",
    "AuthenticationError",
    "DeadlineError",
    "FailedError",
    "InternalError",
    "ModelNotFoundError",
    "NotReadyError",
    "QueueFullError",
    "RateLimitedError",
    "RefusalError",
]


class RefusalError(JaxPagedError):
    """Base of these errors. retry_after_s: whole seconds after which to try again; None where that would not help."""

    def __init__(
        self, *, name: str, value: object, limit: str, fix: str = "", retry_after_s: int | None = None
    ) -> None:
        super().__init__(name=name, value=value, limit=limit, fix=fix)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        fields = (self.name, self.value, self.limit, self.fix, self.retry_after_s)
        return (_rebuild, (type(self), *fields))


def _rebuild(
    kind: type[RefusalError], name: str, value: object, limit: str, fix: str, retry_after_s: int | None
) -> RefusalError:
    return kind(name=name, value=value, limit=limit, fix=fix, retry_after_s=retry_after_s)


class AuthenticationError(RefusalError):
    """No key, or none that is known (HTTP 401). `challenge`: the value of the WWW-Authenticate header (RFC 6750)."""

    @property
    def challenge(self) -> str:
        # a request without credentials gets no error code: it may not have known that it needs any
        return 'Bearer realm="jaxpaged"' if self.value is None else 'Bearer realm="jaxpaged", error="invalid_token"'


class RateLimitedError(RefusalError):
    """The caller's key has used up its rate, or has too many sequences in flight (HTTP 429)."""


class QueueFullError(RefusalError):
    """Too many requests, or too many prompt tokens, wait already (HTTP 429)."""


class DeadlineError(RefusalError):
    """The request's time ran out before its turn came; nothing of it was computed (HTTP 504)."""


class NotReadyError(RefusalError):
    """The engine starts, is paused, or the server shuts down (HTTP 503)."""


class AbortedError(RefusalError):
    """The server ended the request: an operator asked for it, or it shuts down (HTTP 503)."""


class FailedError(RefusalError):
    """The model made no number of this request; others go on (HTTP 500)."""


class InternalError(RefusalError):
    """The engine met a mistake of ours at this request; it and all others go on (HTTP 500)."""


class ModelNotFoundError(RefusalError):
    """A model that is not served under that name (HTTP 404)."""
