"""Where events of the prefix cache are published: `--kv-events-config`, JSON in vLLM's words."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from jaxpaged.errors import ConfigError

OPTION = "kv_events_config"
_WORDS = {"enable_kv_cache_events": bool, "publisher": str, "endpoint": str, "replay_endpoint": str, "topic": str}
_SIZES = ("buffer_steps", "hwm", "max_queue_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class KVEventsConfig:
    """Names and defaults are vLLM's. Raises ConfigError naming the word, its value and the limit.

    Whoever can connect to an endpoint reads the token ids of all prompts: publish on a network of your own.
    """

    enable_kv_cache_events: bool = False
    publisher: str | None = None
    """"zmq", or "null" for none; without it "zmq" where events are enabled."""
    endpoint: str = "tcp://*:5557"
    """ZeroMQ address of the PUB socket: bound if it has a * or :: or is ipc or inproc, else connected to."""
    replay_endpoint: str | None = None
    """Address of a ROUTER socket that gives past batches again; none without it."""
    buffer_steps: int = 10_000
    """Batches kept to be given again."""
    hwm: int = 100_000
    """High-water mark: batches that wait for a slow subscriber before some are dropped for it."""
    max_queue_size: int = 100_000
    """Batches that wait to be published before some are dropped."""
    topic: str = ""
    """First frame of each message."""

    def __post_init__(self) -> None:
        for name, kind in _WORDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name not in ("publisher", "replay_endpoint")):
                raise _refused(name, value, f"it must be a {'boolean' if kind is bool else 'string'}")
        for name in _SIZES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**7:
                raise _refused(name, value, "it must be a whole number from 1 to 10000000")
        if self.publisher not in (None, "zmq", "null"):
            raise _refused("publisher", self.publisher, 'it must be "zmq" or "null"')
        for name in ("endpoint", "replay_endpoint"):
            address = getattr(self, name)
            if address is not None and not address.startswith(("tcp://", "ipc://", "inproc://")):
                raise _refused(name, address, "it must begin with tcp://, ipc:// or inproc://")

    @property
    def publishes(self) -> bool:
        """Whether there is anything to do."""
        return self.enable_kv_cache_events and self.publisher != "null"

    @classmethod
    def parse(cls, text: str) -> KVEventsConfig:
        """From the JSON of the command line. Raises ConfigError."""
        try:
            words = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(name=OPTION, value=text, limit="it must be JSON", fix=str(error)[:200]) from None
        if not isinstance(words, dict):
            raise ConfigError(name=OPTION, value=text, limit="it must be a JSON object")
        known = [field.name for field in fields(cls)]
        for name in words:
            if name not in known:
                raise _refused(name, words[name], f"there is no such word; there are {', '.join(known)}")
        return cls(**words)


def _refused(name: str, value: object, limit: str) -> ConfigError:
    return ConfigError(name=f"{OPTION}.{name}", value=value, limit=limit)
