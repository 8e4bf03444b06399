"""Where requests go and what is in them: the two OpenAI endpoints that stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from jaxpaged_server.load.sample import Sample

Kind = Literal["completions", "chat"]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An endpoint of a server. `fields` are added to each request's body; a None among them takes a field away.

    continuous_usage: ask for a count of tokens with every event, so that events of several tokens are seen as such.
    """

    kind: Kind
    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    fields: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    continuous_usage: bool = False

    def body(self, sample: Sample) -> bytes:
        """The request as JSON."""
        stream_options = {"include_usage": True, **({"continuous_usage_stats": True} if self.continuous_usage else {})}
        asked = {"model": self.model, **self._prompt(sample), "stream": True, "stream_options": stream_options}
        return msgspec.json.encode({key: value for key, value in {**asked, **self.fields}.items() if value is not None})

    def _prompt(self, sample: Sample) -> dict[str, Any]:
        if self.kind == "chat":
            messages = [{"role": "user", "content": sample.prompt}]
            return {"messages": messages, "max_completion_tokens": sample.max_tokens}
        return {"prompt": sample.prompt, "max_tokens": sample.max_tokens}
