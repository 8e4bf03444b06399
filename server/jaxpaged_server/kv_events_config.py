"""Where the server publishes what becomes of its KV blocks: the value of --kv-events-config."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches

from jaxpaged.errors import ConfigError
from jaxpaged.json_option import option_object

_FLAG = "kv_events_config"
_PUBLISHERS = ("null", "zmq")
_SCHEMES = ("tcp://", "ipc://", "inproc://")


@dataclass(frozen=True, slots=True, kw_only=True)
class KVEventsConfig:
    """Names and defaults are vLLM's. Raises ConfigError naming the key and its value."""

    enable_kv_cache_events: bool = False
    """Publish events of blocks that are stored and removed."""
    publisher: str | None = None
    """zmq, or null for none (default: zmq where events are enabled)."""
    endpoint: str = "tcp://*:5557"
    """What the PUB socket binds, or connects to where it names a host."""
    replay_endpoint: str | None = None
    """What the ROUTER socket for replays binds (default: no replays)."""
    buffer_steps: int = 10_000
    """Steps whose events can be replayed."""
    hwm: int = 100_000
    """High-water mark of the PUB socket, in messages: what a slow subscriber misses beyond it."""
    max_queue_size: int = 100_000
    """Events that wait for the publisher at most."""
    topic: str = ""
    """Topic of the messages."""

    def __post_init__(self) -> None:
        if not isinstance(self.enable_kv_cache_events, bool):
            raise _refused("enable_kv_cache_events", self.enable_kv_cache_events, "it must be true or false")
        if self.publisher is None:
            object.__setattr__(self, "publisher", "zmq" if self.enable_kv_cache_events else "null")
        if self.publisher not in _PUBLISHERS:
            raise _refused("publisher", self.publisher, f"it must be one of {', '.join(_PUBLISHERS)}")
        for name in ("endpoint", "replay_endpoint"):
            value = getattr(self, name)
            if value is None and name == "replay_endpoint":
                continue
            if not isinstance(value, str) or not value.startswith(_SCHEMES):
                raise _refused(name, value, f"it must begin with one of {', '.join(_SCHEMES)}")
        for name in ("buffer_steps", "hwm", "max_queue_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**8:
                raise _refused(name, value, "it must be a whole number from 1 to 100,000,000")
        if not isinstance(self.topic, str) or len(self.topic) > 256:
            raise _refused("topic", self.topic, "it must be a text of at most 256 characters")

    @property
    def enabled(self) -> bool:
        """Whether anything is published."""
        return self.enable_kv_cache_events and self.publisher == "zmq"


def kv_events_config(value: object) -> KVEventsConfig:
    """Of JSON text or of a mapping of its keys. Raises ConfigError, for a key that there is not, too."""
    if isinstance(value, KVEventsConfig):
        return value
    given = option_object(_FLAG, value, fix=f"Its keys: {_keys()}")
    known = [item.name for item in fields(KVEventsConfig)]
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"There are: {_keys()}"
            raise _refused(str(key), given[key], "there is no such key", fix)
    return KVEventsConfig(**given)


def _keys() -> str:
    return ", ".join(item.name for item in fields(KVEventsConfig))


def _refused(key: str, value: object, limit: str, fix: str = "") -> ConfigError:
    return ConfigError(name=f"{_FLAG}.{key}", value=value, limit=limit, fix=fix)
