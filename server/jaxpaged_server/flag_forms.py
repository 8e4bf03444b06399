"""How a flag may be written: its name, what it takes, its other spellings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxpaged_server.kv_events_config import KVEventsConfig
from jaxpaged_server.structured_outputs_config import StructuredOutputsConfig

Takes = Literal["switch", "flag", "value", "values", "optional", "json"]
TAKES: tuple[str, ...] = get_args(Takes)
_CONFIGS = frozenset({KVEventsConfig, StructuredOutputsConfig})


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagForm:
    """name: without dashes, words parted by dashes.

    takes: "switch" (--x, --no-x, and --disable-x where it is --enable-x, and the reverse), "flag" (--x alone),
    "value", "values" (one or more), "optional" (a value or none), "json" (JSON text, or --x.key value).
    aliases: other spellings, with their dashes.
    """

    name: str
    takes: str
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.takes in TAKES, f"{self.name} takes {self.takes!r}"

    def spellings(self) -> Iterator[tuple[str, bool]]:
        """Each way to write it, and whether it says yes."""
        yield f"--{self.name}", True
        for alias in self.aliases:
            yield alias, True
        if self.takes == "switch":
            yield f"--no-{self.name}", False
            for prefix, inverse in (("enable-", "disable-"), ("disable-", "enable-")):
                if self.name.startswith(prefix):
                    yield f"--{inverse}{self.name.removeprefix(prefix)}", False


def forms_of(kinds: Sequence[type]) -> dict[str, FlagForm]:
    """The flags that the fields of dataclasses become: name -> form."""
    forms: dict[str, FlagForm] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for item in fields(kind):
            name = item.name.replace("_", "-")
            assert name not in forms, f"two options are called {name}"
            forms[name] = FlagForm(name=name, takes=_takes(hints[item.name]))
    return forms


def _takes(hint: Any) -> str:
    if hint is bool:
        return "switch"
    if get_origin(hint) is tuple:
        return "values"
    if get_origin(hint) is Mapping or get_origin(hint) is dict or _CONFIGS.intersection(get_args(hint)):
        return "json"
    return "value"
