"""What holds where a request says nothing of how to draw: the model's own defaults, as in vLLM. [host half: no jax]

A request comes first, then `override_generation_config`, then generation_config.json, then the API's defaults.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from jaxpaged.config import EngineConfig
from jaxpaged.generation_config import (
    FIELDS,
    FILE,
    FROM_API,
    FROM_MODEL,
    OVERRIDE,
    file_value,
    not_implemented,
    read_generation_config,
)
from jaxpaged.request import SamplingParams

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """values: fields of `SamplingParams` by name; those that are not there have its own defaults. sources: of each.

    max_tokens_limit: tokens of any answer at most, whatever a request says; None: no limit. not_implemented: entries of
    the file that would change answers and do not, as KEY=VALUE.
    """

    values: Mapping[str, int | float] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    max_tokens_limit: int | None = None
    not_implemented: tuple[str, ...] = ()

    def fill(self, params: SamplingParams, *, said: Collection[str] = ()) -> SamplingParams:
        """The parameters with these values in place of all that nobody has said. said: names of fields."""
        return replace(params, **{name: value for name, value in self.values.items() if name not in said})

    def max_tokens(self, said: int | None) -> int | None:
        """Tokens of an answer at most, where a request says so many, or nothing (None); None: to the context's end."""
        most = [self.values.get("max_tokens") if said is None else said, self.max_tokens_limit]
        return min((int(value) for value in most if value is not None), default=None)

    def describe(self) -> str:
        """All of it in a line, for people."""
        parts = [
            ", ".join(f"{name} {self.values[name]}" for name in names) + f" by {source}"
            for source in (FILE, OVERRIDE)
            if (names := [name for name, whose in self.sources.items() if whose == source])
        ]
        if self.max_tokens_limit is not None:
            parts.append(f"at most {self.max_tokens_limit} tokens an answer")
        if self.not_implemented:
            parts.append(f"not implemented: {', '.join(self.not_implemented)}")
        return "; ".join(parts) or "the API's"

    def warn(self) -> None:
        """Tell the log what the file asks for in vain."""
        if self.not_implemented:
            told = ", ".join(self.not_implemented)
            _log.warning("%s asks for what is not implemented, so answers may differ from its model's: %s", FILE, told)


def sampling_defaults(config: EngineConfig, *, has_folder: bool = True) -> SamplingDefaults:
    """The defaults that an engine's options ask for. has_folder: its model is a folder, not only a name.

    Raises ConfigError for another folder without the file, and ModelError for a file that cannot be read or has a value
    that cannot be.
    """
    chosen, override = config.generation_config, config.override_generation_config
    own = config.model if has_folder else None
    folder = own if chosen == FROM_MODEL else config.generation_folder
    told = {} if folder is None else read_generation_config(folder, required=chosen != FROM_MODEL)
    values: dict[str, int | float] = {}
    sources: dict[str, str] = {}
    for key, name in FIELDS.items():
        source, value = (OVERRIDE, override[key]) if key in override else (FILE, told.get(key))
        if value is not None:
            values[name] = file_value(key, value) if source == FILE else value
            sources[name] = source
    # as in vLLM: the file of the model's own folder sets a default, and whoever runs the server a limit
    limit = override.get("max_new_tokens") if chosen in (FROM_MODEL, FROM_API) else values.get("max_tokens")
    return SamplingDefaults(
        values=values,
        sources=sources,
        max_tokens_limit=None if limit is None else int(limit),
        not_implemented=not_implemented(told),
    )
