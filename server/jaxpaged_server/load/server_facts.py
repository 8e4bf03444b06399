"""What a server says of itself before a load is sent: that it is there, its model, what it knows of tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from jaxpaged.errors import ConfigError

_ASK_S = 20.0
_RETRY_S = 0.25
_WORDS = "river stone paper table window garden letter number " * 8
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """model: the entry of /v1/models that is to be asked ({} where the server has no such list).

    tokenizer_info: the reply of /tokenizer_info, None without one.
    words_per_token: how many common English words are one token, by /tokenize; 1 where it is not known.
    """

    model: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    tokenizer_info: Mapping[str, Any] | None = None
    words_per_token: float = 1.0


def shown_url(url: str) -> str:
    """The URL without a user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


async def look_at(
    session: aiohttp.ClientSession, base_url: str, *, model: str | None, wait_s: float = 0.0
) -> ServerFacts:
    """Ask the server. model: the name to look for, None: the first that it serves. wait_s: for it to be ready.

    Raises ConfigError where nothing answers, the key is refused, or there is no such model.
    """
    entry = await _model(session, base_url, model, until_s=time.monotonic() + wait_s)
    name = str(entry.get("id", model))
    info = await _reply(session, "GET", f"{base_url}/tokenizer_info")
    body = {"model": name, "prompt": _WORDS, "add_special_tokens": False}
    counted = await _reply(session, "POST", f"{base_url}/tokenize", body)
    num_tokens = (counted or {}).get("count") or len((counted or {}).get("tokens") or ())
    words = len(_WORDS.split())
    return ServerFacts(
        model=entry,
        tokenizer_info=info,
        words_per_token=words / num_tokens if isinstance(num_tokens, int) and num_tokens else 1.0,
    )


async def _model(
    session: aiohttp.ClientSession, base_url: str, model: str | None, *, until_s: float
) -> Mapping[str, Any]:
    while True:
        status, body = await _models(session, base_url, until_s)
        if status not in (502, 503) or time.monotonic() >= until_s:
            break
        await asyncio.sleep(_RETRY_S)
    shown = shown_url(base_url)
    if status in (401, 403):
        raise ConfigError(
            name="OPENAI_API_KEY",
            value="(not shown)",
            limit=f"the server at {shown} refused it, or its absence, with status {status}",
            fix="Set the environment variable, or give --header Authorization=...",
        )
    if status in (502, 503):
        raise ConfigError(
            name="--base-url",
            value=shown,
            limit=f"the server is not ready (status {status})",
            fix="Wait for it with --ready-check-timeout-sec",
        )
    entries = [each for each in body.get("data") or () if isinstance(each, dict)] if status == 200 else []
    if model is None and not entries:
        raise ConfigError(
            name="--base-url",
            value=shown,
            limit=f"it names no model at /v1/models (status {status})",
            fix="Name one with --model",
        )
    if model is None:
        return entries[0]
    named = [each for each in entries if each.get("id") == model]
    if entries and not named:
        served = ", ".join(str(each.get("id")) for each in entries[:8])
        raise ConfigError(name="--model", value=model, limit=f"the server serves {served}")
    return named[0] if named else _NONE


async def _models(session: aiohttp.ClientSession, base_url: str, until_s: float) -> tuple[int, Mapping[str, Any]]:
    while True:
        try:
            async with session.get(f"{base_url}/v1/models", timeout=aiohttp.ClientTimeout(total=_ASK_S)) as reply:
                return reply.status, _object(await reply.read())
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if time.monotonic() >= until_s:
                raise ConfigError(
                    name="--base-url",
                    value=shown_url(base_url),
                    limit=f"nothing answers there ({error or type(error).__name__})",
                    fix="Start a server with `jaxpaged serve`, or name another with --base-url, --host and --port",
                ) from None
            await asyncio.sleep(_RETRY_S)


async def _reply(
    session: aiohttp.ClientSession, method: str, url: str, body: Mapping[str, Any] | None = None
) -> Mapping[str, Any] | None:
    """What a route that need not be there replies, None where it does not."""
    try:
        async with session.request(
            method,
            url,
            data=None if body is None else msgspec.json.encode(body),
            timeout=aiohttp.ClientTimeout(total=_ASK_S),
        ) as reply:
            return _object(await reply.read()) if reply.status == 200 else None
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
