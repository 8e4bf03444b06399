"""The server's API keys, and what each stands for. [no jax]

Only SHA-256 digests are kept; a key itself is forgotten as soon as it is read. Keys come from a file (`key_file.py`)
and from `--api-key`, for which a variable of the environment may stand (`environment.py`).
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from jaxpaged.errors import ConfigError
from jaxpaged_server.access.key_file import KeyEntry, read_key_file

MAX_KEYS = 1024
"""All digests are compared for every request, to take the same time whichever is meant: 0.05 ms at this number."""
_MAX_KEY_LENGTH = 512
_MAX_NAME_LENGTH = 64
_MAX_SALT_LENGTH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What a key may use; None is no limit. Raises ConfigError."""

    max_concurrency: int | None = None
    """Requests in flight at once, waiting ones included; each choice of each prompt of an HTTP request is one."""
    requests_per_minute: float | None = None
    """HTTP requests; a bucket of one minute's worth: so many may come at once."""
    tokens_per_minute: float | None = None
    """Of prompts and answers; a bucket of one minute's worth."""

    def __post_init__(self) -> None:
        for name in ("max_concurrency", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(name=name, value=value, limit="a limit is above 0", fix="Leave it out for no limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A tenant: who is asking, and with what rights. Raises ConfigError."""

    name: str
    """Unique; shown in metrics and logs."""
    salt: str = ""
    """Namespace of the prefix cache: keys of equal salt share cached prefixes, others cannot see that they exist."""
    weight: float = 1.0
    """Share of the engine against other keys that wait too."""
    limits: KeyLimits = field(default_factory=KeyLimits)
    admin: bool = False
    """May see what other keys do: their names, figures and requests, but no text."""

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= _MAX_NAME_LENGTH and self.name.isascii() and self.name.isprintable()):
            limit = f"a name has 1 to {_MAX_NAME_LENGTH} printable ASCII characters"
            raise ConfigError(name="key name", value=self.name, limit=limit)
        if not (math.isfinite(self.weight) and 0.001 <= self.weight <= 1000):
            raise ConfigError(name=f"weight of key {self.name!r}", value=self.weight, limit="it is 0.001 to 1000")

    def namespace(self, cache_salt: str | None = None) -> str:
        """The prefix cache's namespace of a request that brings a salt of its own. It never leaves the key's."""
        return self.salt if cache_salt is None else f"{self.salt}/{cache_salt}"


ANONYMOUS = Key(name="anonymous", admin=True)
"""Everybody, where no key is configured."""


class Keys:
    """The keys in force. `find` may run while another thread runs `reload`."""

    def __init__(self, *, file: Path | None = None, plain: Sequence[str] = ()) -> None:
        """plain: of `--api-key`. Raises ConfigError for a key, a name or a file that cannot be; it shows no key."""
        self._file = file
        self._plain = [
            (Key(name=f"api-key-{number}", salt=_private_salt(digest)), digest)
            for number, digest in enumerate((_digest(value, "--api-key") for value in plain), 1)
        ]
        self._table = self._read()

    @property
    def keys(self) -> tuple[Key, ...]:
        """Those configured; `ANONYMOUS` alone where there are none."""
        return tuple(key for key, _ in self._table) or (ANONYMOUS,)

    @property
    def required(self) -> bool:
        """Whether a request must bring a key."""
        return bool(self._table)

    def sees_all(self, key: Key) -> bool:
        """Whether a key may see what all keys do. One that is alone in force sees nothing but its own anyway."""
        return key.admin or len(self.keys) == 1

    def find(self, presented: str) -> Key | None:
        """The key that is `presented`, or None. Compares with all of them, so that time tells nothing."""
        digest, found = sha256(presented.encode("utf-8", "surrogateescape")).digest(), None
        compare = hmac.compare_digest
        for key, known in self._table:
            if compare(digest, known):
                found = key
        return found

    def reload(self) -> None:
        """Read the file again. Raises ConfigError for one that cannot be; the keys read before then stay in force."""
        try:
            self._table = self._read()
        except ConfigError as error:
            fix = f"{error.fix}. Until then the keys read before stay in force".removeprefix(". ")
            raise ConfigError(name=error.name, value=error.value, limit=error.limit, fix=fix) from error

    def _read(self) -> tuple[tuple[Key, bytes], ...]:
        entries = [] if self._file is None else read_key_file(self._file)
        table = [_key_of(entry) for entry in entries] + self._plain
        if len(table) > MAX_KEYS:
            raise ConfigError(name="number of API keys", value=len(table), limit=f"at most {MAX_KEYS}")
        names, digests = set[str](), dict[bytes, str]()
        for key, digest in table:
            if key.name in names:
                raise ConfigError(name="key name", value=key.name, limit="two keys have it", fix="Names are unique")
            if (other := digests.get(digest)) is not None:
                raise ConfigError(name="keys", value=[other, key.name], limit="they are the same key")
            names.add(key.name)
            digests[digest] = key.name
        return tuple(table)


def _key_of(entry: KeyEntry) -> tuple[Key, bytes]:
    source = f"key {entry.name!r}"
    if (entry.key is None) == (entry.sha256 is None):
        given = [name for name in ("key", "sha256") if getattr(entry, name) is not None]
        raise ConfigError(name=source, value=given, limit="an entry has either 'key' or 'sha256'")
    digest = _digest(entry.key, source) if entry.key is not None else _digest_of_hex(entry.sha256 or "", source)
    limits = KeyLimits(
        max_concurrency=entry.max_concurrency,
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
    )
    salt = _private_salt(digest) if entry.cache_salt is None else _named_salt(entry.cache_salt, source)
    return Key(name=entry.name, weight=entry.weight, limits=limits, salt=salt, admin=entry.admin), digest


def _digest(key: str, source: str) -> bytes:
    # anything else could not be sent in a header as it is
    if not (0 < len(key) <= _MAX_KEY_LENGTH and all("!" <= character <= "~" for character in key)):
        limit = f"a key has 1 to {_MAX_KEY_LENGTH} printable ASCII characters, and no space"
        raise ConfigError(name=source, value=f"({len(key)} characters, not shown)", limit=limit)
    return sha256(key.encode()).digest()


def _digest_of_hex(text: str, source: str) -> bytes:
    if len(text) != 64 or not all(character in "0123456789abcdefABCDEF" for character in text):
        limit = "a SHA-256 has 64 hex digits"
        raise ConfigError(name=f"sha256 of {source}", value=f"({len(text)} characters, not shown)", limit=limit)
    return bytes.fromhex(text)


def _private_salt(digest: bytes) -> str:
    # hashed once more: a salt reaches the engine's process, and a digest needs not
    return sha256(b"jaxpaged private cache salt\0" + digest).hexdigest()[:32]


def _named_salt(name: str, source: str) -> str:
    if not (0 < len(name.encode("utf-8", "surrogatepass")) <= _MAX_SALT_LENGTH and name.isprintable()):
        limit = f"a salt has 1 to {_MAX_SALT_LENGTH} bytes and is printable"
        raise ConfigError(name=f"cache_salt of {source}", value=name, limit=limit)
    return sha256(b"jaxpaged named cache salt\0" + name.encode()).hexdigest()[:32]
