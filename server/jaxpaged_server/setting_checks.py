"""What each kind of server option may be. Every function raises ConfigError naming the option."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpaged.dialects.dialect import dialect_of
from jaxpaged.errors import ConfigError
from jaxpaged_server.templating.variables import is_free

MAX_SECONDS = 7 * 24 * 3600.0
_LONGEST_SOCKET = 107  # bytes of a Unix socket's path that Linux takes
_ORIGIN = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_PRINTABLE = re.compile(r"[!-~]+")
_MAX_TEMPLATE_KWARGS = 16


def switch(name: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise ConfigError(name=name, value=value, limit="it must be True or False")


def count(name: str, value: object, low: int, high: int) -> None:
    """A whole number within bounds, or None (where the field can be)."""
    if value is None and name in ("max_num_queued_reqs", "max_num_queued_tokens"):
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(name=name, value=value, limit=f"it must be a whole number from {low:,} to {high:,}")


def seconds(name: str, value: object, low: float) -> None:
    """A finite span of time."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= MAX_SECONDS:  # pyright: ignore[reportOperatorIssue]
        raise ConfigError(name=name, value=value, limit=f"it must be from {low:g} to {MAX_SECONDS:,.0f} seconds")


def share(name: str, value: object) -> None:
    """A part of a whole that is not nothing."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 < value <= 1:  # pyright: ignore[reportOperatorIssue]
        raise ConfigError(name=name, value=value, limit="it must be above 0 and at most 1")


def word(name: str, value: object, words: Sequence[str]) -> None:
    """One of some words."""
    if value not in words:
        raise ConfigError(name=name, value=value, limit=f"it must be one of {', '.join(words)}")


def upper(name: str, value: object) -> str:
    """A text in capitals."""
    if not isinstance(value, str):
        raise ConfigError(name=name, value=value, limit="it must be a word")
    return value.upper()


def path(name: str, value: object) -> str | None:
    """A path, given as a text or as an object of its own."""
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ConfigError(name=name, value=value, limit="it must be a path")
    return str(value)


def texts(name: str, value: object) -> tuple[str, ...]:
    """Texts, of one, of a list, or of the JSON text of a list. What is in them is not shown: they may be keys."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise ConfigError(name=name, value="(not shown)", limit="it must be a text, or a list of texts")
    if len(value) == 1 and value[0].startswith("[") and value[0].endswith("]"):
        try:
            listed = json.loads(value[0])
        except ValueError:
            listed = None
        if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
            return tuple(listed)
    return tuple(value)


def json_object(name: str, config: object) -> dict[str, Any]:
    """A field that is an object, or the JSON text of one."""
    value = getattr(config, name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(name=name, value=value, limit=f"it is not JSON: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(name=name, value=value, limit="it must be a JSON object", fix='As in {"key": true}')
    return dict(value)


def host(value: object) -> None:
    """A host's name or address."""
    if not isinstance(value, str) or not _PRINTABLE.fullmatch(value) or "/" in value:
        raise ConfigError(
            name="host",
            value=value,
            limit="it must be a host's name or address",
            fix="127.0.0.1 for this machine, 0.0.0.0 or :: for all; a Unix socket is --uds",
        )


def names(name: str, values: Sequence[str]) -> None:
    """Names of a model."""
    for value in values:
        if not value.strip() or len(value) > 256 or not value.isprintable():
            raise ConfigError(name=name, value=value, limit="it must be 1 to 256 printable characters")


def keys(values: Sequence[str]) -> None:
    """API keys, which no error shows."""
    for place, value in enumerate(values, start=1):
        if not _PRINTABLE.fullmatch(value) or len(value) > 512:
            raise ConfigError(
                name=f"api_key (number {place})",
                value="(not shown)",
                limit="it must be 1 to 512 visible ASCII characters, without spaces",
            )


def role(value: object) -> None:
    """The role of an answer."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ConfigError(name="response_role", value=value, limit="it must be 1 to 64 letters, digits, _ or -")


def dialect(calls: object, reasoning: object, *, auto: object) -> None:
    """Parsers of tool calls and of reasoning, by their names."""
    for name, value in (("tool_call_parser", calls), ("reasoning_parser", reasoning)):
        if not isinstance(value, str | None):
            raise ConfigError(name=name, value=value, limit="it must be a parser's name")
    dialect_of(tool_call_parser=calls, reasoning_parser=reasoning)  # pyright: ignore[reportArgumentType]
    if auto and not calls:
        limit = "the server does not know how its model writes calls"
        raise ConfigError(name="enable_auto_tool_choice", value=auto, limit=limit, fix="Give --tool-call-parser, too")


def origins(values: Sequence[str]) -> None:
    """Web origins."""
    for value in values:
        if value != "*" and not _ORIGIN.fullmatch(value):
            raise ConfigError(
                name="allowed_origins",
                value=value,
                limit="it must be * or an origin: scheme, host and port, without a path",
                fix="As in https://chat.example.org",
            )


def root_path(value: object) -> str:
    """A path such as /llm, without the slash at its end."""
    if value is None:
        return ""
    plain = value.rstrip("/") if isinstance(value, str) else ""
    if not isinstance(value, str) or not _ROOT_PATH.fullmatch(plain) or "/." in plain:
        raise ConfigError(name="root_path", value=value, limit="it must be a path that begins with /", fix="As in /llm")
    return plain


def template_kwargs(values: Mapping[str, Any]) -> None:
    """Variables of a chat template."""
    if len(values) > _MAX_TEMPLATE_KWARGS:
        limit = f"there may be {_MAX_TEMPLATE_KWARGS} of them"
        raise ConfigError(name="default_chat_template_kwargs", value=list(values), limit=limit)
    for key, value in values.items():
        if not is_free(key):
            raise ConfigError(name="default_chat_template_kwargs", value=key, limit="it cannot be a variable's name")
        plain = value is None or isinstance(value, str | bool | int | float)
        if not plain or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(
                name=f"default_chat_template_kwargs.{key}",
                value=value,
                limit="it must be a text, a number, true, false or null",
            )


def template_file(value: str | None) -> None:
    """A file, not the template itself, which vLLM takes in this place, too."""
    if value is not None and any(mark in value for mark in ("{{", "{%", "\n")):
        raise ConfigError(name="chat_template", value=value, limit="it must be a file", fix="Put the template into one")


def sockets(uds: str | None, admin_socket: str | None) -> None:
    """Paths of Unix sockets: short enough, and not the same."""
    for name, value in (("uds", uds), ("admin_socket", admin_socket)):
        if value is not None and len(value.encode()) > _LONGEST_SOCKET:
            limit = f"the path of a Unix socket may have {_LONGEST_SOCKET} bytes"
            raise ConfigError(name=name, value=value, limit=limit)
    if uds is not None and uds == admin_socket:
        raise ConfigError(
            name="admin_socket", value=uds, limit="it must not be the one for requests", fix="Give another path"
        )


def url(name: str, value: object) -> None:
    """An address over HTTP, or None."""
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"https?://[^\s/]+(/\S*)?", value)):
        raise ConfigError(
            name=name, value=value, limit="it must begin with http:// or https://", fix="As in http://localhost:4318"
        )


def tls(
    *,
    certfile: str | None,
    keyfile: str | None,
    ca_certs: str | None,
    cert_reqs: int,
    ciphers: object,
    refresh: bool,
) -> None:
    """Options that go together: none without a certificate, and clients are checked against somebody."""
    others = {
        "ssl_keyfile": keyfile,
        "ssl_ca_certs": ca_certs,
        "ssl_ciphers": ciphers,
        "ssl_cert_reqs": cert_reqs or None,
        "enable_ssl_refresh": refresh or None,
    }
    for name, value in others.items():
        if certfile is None and value is not None:
            raise ConfigError(name=name, value=value, limit="it needs a certificate", fix="Give ssl_certfile")
    if ciphers is not None and (not isinstance(ciphers, str) or not _PRINTABLE.fullmatch(ciphers)):
        raise ConfigError(name="ssl_ciphers", value=ciphers, limit="it must be OpenSSL's names of ciphers")
    if cert_reqs and ca_certs is None:
        raise ConfigError(
            name="ssl_cert_reqs",
            value=cert_reqs,
            limit="clients' certificates are checked against those who signed them",
            fix="Give ssl_ca_certs",
        )
    if ca_certs is not None and not cert_reqs:
        raise ConfigError(
            name="ssl_ca_certs",
            value=ca_certs,
            limit="with ssl_cert_reqs at 0 no client's certificate is asked for",
            fix="Give ssl_cert_reqs: 2, or 1 where clients without one are let in",
        )
