"""What a model's thinking stands between: by an option, or by its vocabulary. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxpaged.errors import ConfigError
from jaxpaged.json_option import option_object

KNOWN_TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""What the thinking of well-known models stands between, where both are tokens of their own."""
REASONING_CONFIG = "reasoning_config"
_KEYS = ("reasoning_start_str", "reasoning_end_str")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkTags:
    """The tokens that begin and end thinking; one or more each."""

    start: tuple[int, ...]
    end: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.start, "thinking without a beginning"
        assert self.end, "thinking without an end"

    @property
    def longest(self) -> int:
        """Tokens of the longer tag."""
        return max(len(self.start), len(self.end))


def check_reasoning_config(value: object) -> dict[str, str]:
    """The option `reasoning_config`, an object or its JSON text: empty, or with both tags. Raises ConfigError."""
    given = option_object(REASONING_CONFIG, value, fix=f'As in {{"{_KEYS[0]}": "<think>", "{_KEYS[1]}": ...}}')
    unknown = [key for key in given if key not in _KEYS]
    if unknown or (given and len(given) < len(_KEYS)):
        limit = f"it must have {_KEYS[0]} and {_KEYS[1]}, and nothing else"
        raise ConfigError(name=REASONING_CONFIG, value=dict(given), limit=limit)
    for key, text in given.items():
        if not isinstance(text, str) or not text:
            limit = "it must be a text, and not empty"
            raise ConfigError(name=f"{REASONING_CONFIG}.{key}", value=text, limit=limit)
    if given and given[_KEYS[0]] == given[_KEYS[1]]:
        limit = "beginning and end must be told apart"
        raise ConfigError(name=REASONING_CONFIG, value=dict(given), limit=limit)
    return dict(given)


def think_tags(
    reasoning_config: Mapping[str, str],
    *,
    encode: Callable[[str], Sequence[int]],
    token_id: Callable[[str], int | None],
) -> ThinkTags | None:
    """What a model's thinking stands between: by the option, else by its vocabulary; None where neither tells.

    encode: a text's tokens without special ones around. token_id: of the token that is written so.
    Raises ConfigError for an option whose texts have no tokens.
    """
    if reasoning_config:
        start, end = (tuple(encode(reasoning_config[key])) for key in _KEYS)
        if not start or not end:
            limit = "each must have at least one token in the model's vocabulary"
            raise ConfigError(name=REASONING_CONFIG, value=dict(reasoning_config), limit=limit)
        return ThinkTags(start=start, end=end)
    for first, last in KNOWN_TAGS:
        ids = token_id(first), token_id(last)
        if ids[0] is not None and ids[1] is not None:
            return ThinkTags(start=(ids[0],), end=(ids[1],))
    return None
