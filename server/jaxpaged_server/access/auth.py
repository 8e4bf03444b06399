"""Which key a request carries. [no jax]

Read are, in this order, and only the first that is there:

- `Authorization: Bearer KEY`: clients of OpenAI's API and of vLLM
- `Authorization: Basic` with the key as the password, whatever the user: browsers, which ask their user for it once and
  then send it with all that a page loads
- `x-api-key: KEY`: clients of Anthropic's API
- `api-key: KEY`: clients of Azure's OpenAI service

Which paths need none is not decided here.
"""

from __future__ import annotations

import base64
from typing import Protocol

from jaxpaged_server.access.keys import ANONYMOUS, Key, Keys
from jaxpaged_server.refusals import AuthenticationError

_BARE_HEADERS = ("x-api-key", "api-key")
_FIX = "Send one in the header 'Authorization: Bearer KEY'"


class Headers(Protocol):
    """A request's headers as aiohttp gives them: names in any case, a name may come more than once."""

    def getall(self, key: str, default: list[str], /) -> list[str]: ...


def authenticate(headers: Headers, keys: Keys) -> Key:
    """The key of a request with these headers; `ANONYMOUS` where none is configured.

    Raises AuthenticationError, which tells nothing of what was sent but that something was.
    """
    if not keys.required:
        return ANONYMOUS
    presented = _presented(headers)
    key = keys.find(presented)
    if key is None:
        raise AuthenticationError(name="API key", value="(not shown)", limit="it is not known here", fix=_FIX)
    return key


def _presented(headers: Headers) -> str:
    if values := headers.getall("Authorization", []):
        scheme, _, key = _single(values).partition(" ")
        match scheme.lower():
            case "bearer":
                return key.strip()
            case "basic":
                return _password(key.strip())
        limit = "its scheme is neither Bearer nor Basic"
        raise AuthenticationError(name="Authorization header", value="(not shown)", limit=limit, fix=_FIX)
    for name in _BARE_HEADERS:
        if values := headers.getall(name, []):
            return _single(values).strip()
    raise AuthenticationError(name="API key", value=None, limit="this server asks for one", fix=_FIX)


def _password(credentials: str) -> str:
    """Of Basic credentials; none (which no key is) where they are malformed."""
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""


def _single(values: list[str]) -> str:
    if len(values) > 1:
        # a proxy in front may have looked at the other one
        raise AuthenticationError(
            name="API key", value="(not shown)", limit=f"it is sent {len(values)} times", fix=_FIX
        )
    return values[0]
