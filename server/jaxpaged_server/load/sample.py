"""One request of a load: what to ask and how long the answer may be."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaged.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt, as text or as token ids, and the most tokens of its answer.

    num_prompt: tokens of the prompt as far as this side knows, 0: unknown. Raises ConfigError for an empty prompt or an
    answer below one token.
    """

    prompt: str | tuple[int, ...]
    max_tokens: int
    num_prompt: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ConfigError(name="prompt", value=self.prompt, limit="it is empty")
        if self.max_tokens < 1:
            raise ConfigError(name="answer length", value=self.max_tokens, limit="it must be at least 1 token")
