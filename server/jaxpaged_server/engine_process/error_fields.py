"""Errors on their way through the wire: taken apart on one side, put together on the other. [no jax]"""

from __future__ import annotations

from collections.abc import Mapping

from jaxpaged import errors
from jaxpaged.errors import EngineError, JaxPagedError
from jaxpaged_server.engine_process.wire import ErrorFields
from jaxpaged_server.refusals import InternalError

_KINDS: Mapping[str, type[JaxPagedError]] = {
    **{name: getattr(errors, name) for name in errors.__all__},
    InternalError.__name__: InternalError,
}
_MAX_SHOWN = 200  # characters
_MAX_SAID = 2000


class _Shown(str):
    """A value that is known only as it was shown, and is shown so again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def fields_of(error: BaseException, *, of_request: bool = False) -> ErrorFields:
    """An error taken apart. One that is not ours becomes an EngineError that names its type and what it said, or an
    InternalError where it is of one request alone."""
    if not isinstance(error, JaxPagedError):
        kind = InternalError if of_request else EngineError
        said = str(error)[:_MAX_SAID] or "it said nothing more"
        error = kind(name="request" if of_request else "engine", value=type(error).__name__, limit=said)
    value = repr(error.value)
    return ErrorFields(
        kind=type(error).__name__,
        name=error.name,
        value=value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}...",
        limit=error.limit,
        fix=error.fix,
    )


def error_of(fields: ErrorFields) -> JaxPagedError:
    """The error again, a new one each time; an EngineError where its kind is unknown here."""
    kind = _KINDS.get(fields.kind, EngineError)
    return kind(name=fields.name, value=_Shown(fields.value), limit=fields.limit, fix=fields.fix)
