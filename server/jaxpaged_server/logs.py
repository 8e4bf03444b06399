"""What the log looks like: one line an event, of text or JSON, and never a prompt or a key in it.

Line breaks, escapes and other control characters are shown as \\n, \\x1b, ..., so that nobody can forge a line or paint
a terminal; a line ends at 4 KiB. Loggers are those of the module names; `for_request` adds a request's id.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from jaxpaged.errors import ConfigError, JaxPagedError, RequestError

MAX_LINE_BYTES = 4096
OURS = ("jaxpaged", "jaxpaged_server")
"""The loggers whose level is the one that was asked for; those of libraries tell warnings alone."""
ACCESS_LOGGER = "jaxpaged_server.access"
_FIELDS = ("request_id", "method", "route", "status", "ms", "prompt_tokens", "completion_tokens", "key_name")
"""Fields of a record that JSON lines show beside its message."""
_CUT = "...[cut]"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SECRETS = re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+")
_TELLING = (OSError, MemoryError, ImportError, AssertionError, RuntimeError, JaxPagedError)
"""Errors whose message is about us; that of others (ValueError, KeyError, ...) may hold what a request said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEntry:
    """A request that has ended, as the log tells it. ms: until its last byte. route: the template, not the path asked.

    key_name: the key's name in the key file, never the key.
    """

    method: str
    route: str
    status: int
    ms: float
    request_id: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    key_name: str = ""


def access_line(entry: RequestEntry) -> None:
    """Log a request that has ended."""
    shown = {name: getattr(entry, name) for name in _FIELDS} | {"ms": round(entry.ms, 1)}
    logging.getLogger(ACCESS_LOGGER).info(
        "%s %s %d %.1f ms, %d + %d tokens, key %s",
        *(entry.method, entry.route, entry.status, entry.ms, entry.prompt_tokens, entry.completion_tokens),
        entry.key_name or "-",
        extra=shown,
    )


def for_request(logger: logging.Logger, request_id: str) -> logging.LoggerAdapter[logging.Logger]:
    """The logger with a request's id in every line."""
    return logging.LoggerAdapter(logger, {"request_id": request_id})


@dataclass(frozen=True, slots=True, kw_only=True)
class LogForm:
    """level: the least that is told, by its name. format: "text" or "json"."""

    level: str = "INFO"
    format: str = "text"


def configure_logging(form: LogForm, *, secrets: Sequence[str] = (), stream: IO[str] | None = None) -> logging.Handler:
    """Send all logs to a stream (default: stderr) in this form; returns the handler. secrets: texts never to be shown.

    A handler of an earlier call is replaced. Raises ConfigError where JSON was asked for and its library is not there.
    """
    inner = _json_formatter() if form.format == "json" else None
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.set_name("jaxpaged_server")
    handler.setFormatter(LineFormatter(inner, secrets=secrets))
    root = logging.getLogger()
    for other in [known for known in root.handlers if known.get_name() == handler.get_name()]:
        root.removeHandler(other)
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[form.level]
    root.setLevel(max(level, logging.WARNING))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    return handler


class LineFormatter(logging.Formatter):
    """Makes one clean line of a record, by itself as text or with `inner` as JSON. secrets: texts never to be shown."""

    def __init__(self, inner: logging.Formatter | None = None, *, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = tuple(sorted(filter(None, secrets), key=len, reverse=True))

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = self._clean(_message(record))
        fields = {name: self._field(record, name) for name in _FIELDS if hasattr(record, name)}
        error = self._clean(_told(record.exc_info[1])) if record.exc_info and record.exc_info[1] is not None else ""
        room = MAX_LINE_BYTES
        while True:  # JSON takes more bytes than the text it holds, by how much is known afterwards
            line = self._line(record, _cut(message, room), fields, _cut_middle(error, room // 2))
            if (size := len(line.encode())) <= MAX_LINE_BYTES:
                return line
            room = max(0, min(room - 1, room * MAX_LINE_BYTES // size - 64))

    def _line(self, record: logging.LogRecord, message: str, fields: dict[str, Any], error: str) -> str:
        if self._inner is None:
            when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            head = f"{when}.{int(record.msecs):03d}Z {record.levelname} {record.name}: "
            tail = f" [{fields['request_id']}]" if fields.get("request_id") else ""
            return f"{head}{message}{tail}{f' | {error}' if error else ''}"
        plain = logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, message, None, None)
        plain.created, plain.msecs = record.created, record.msecs
        for name, value in (fields | ({"error": error} if error else {})).items():
            setattr(plain, name, value)
        return self._inner.format(plain)

    def _field(self, record: logging.LogRecord, name: str) -> Any:
        value = getattr(record, name)
        return _cut(self._clean(value), 256) if isinstance(value, str) else value

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _CONTROLS.sub(_shown, _SECRETS.sub(r"\1 ***", text))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # a call with the wrong arguments must not cost the line
        return f"{record.msg} (its arguments do not fit)"


def _shown(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "surrogatepass").decode("ascii")


def _told(error: BaseException) -> str:
    """An error, its frames and those of its causes, in one text; messages only where they cannot quote a request."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(parts) < 8:
        seen.add(id(current))
        frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in _frames(current)]
        parts.append(f"{type(current).__name__}: {_telling_message(current)} at {' > '.join(frames) or 'no frame'}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "; because of ".join(parts)


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return traceback.extract_tb(error.__traceback__)[-20:]


def _telling_message(error: BaseException) -> str:
    if isinstance(error, RequestError):  # without the value, which is the request's
        return f"{error.name}: {error.limit}"
    if isinstance(error, UnicodeError) or not isinstance(error, _TELLING):
        return "(message withheld: it may quote a request)"
    return str(error)


def _cut(text: str, size: int) -> str:
    """At most so many bytes of UTF-8."""
    data = text.encode()
    if len(data) <= size:
        return text
    return data[: max(0, size - len(_CUT))].decode("utf-8", "ignore") + _CUT


def _cut_middle(text: str, size: int) -> str:
    """The same, with both ends kept: of a stack the last frame tells most."""
    data = text.encode()
    if len(data) <= size:
        return text
    half = max(0, (size - len(_CUT)) // 2)
    return data[:half].decode("utf-8", "ignore") + _CUT + data[len(data) - half :].decode("utf-8", "ignore")


def _json_formatter() -> logging.Formatter:
    try:
        from pythonjsonlogger.json import JsonFormatter  # an extra
    except ImportError:
        raise ConfigError(
            name="log_format",
            value="json",
            limit="python-json-logger is not installed",
            fix='Install it: pip install "jaxpaged[json-logs]"',
        ) from None
    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
    )
