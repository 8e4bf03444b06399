"""Prompts of random tokens: of given lengths, with or without a prefix that they share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from jaxpaged.errors import ConfigError
from jaxpaged.tokenize import Tokenizer
from jaxpaged_server.load.sample import Sample
from jaxpaged_server.load.vocabulary import Vocabulary

_TRIES = 10
_WORDS = (
    *("river", "stone", "paper", "table", "window", "garden", "letter", "number", "bridge", "forest", "engine"),
    *("market", "silver", "summer", "winter", "doctor", "village", "reason", "island", "kitchen", "morning"),
    *("picture", "question", "station", "story", "street", "teacher", "water", "music", "yellow", "dinner"),
)
"""For servers whose tokenizer is unknown: common words, mostly one token each in a large vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeRatio:
    """How far lengths spread round their mean: [length * (1 - ratio), length * (1 + ratio)]."""

    input: float = 0.0
    output: float = 0.0

    def __post_init__(self) -> None:
        for ratio in (self.input, self.output):
            if not 0 <= ratio < 1:
                raise ConfigError(name="--random-range-ratio", value=ratio, limit="it must be in [0, 1)")

    @classmethod
    def parse(cls, text: str) -> RangeRatio:
        """A number for both, or {"input": 0.3, "output": 0.5}. Raises ConfigError for anything else."""
        try:
            value = json.loads(text)
            if isinstance(value, dict):
                if unknown := set(value) - {"input", "output"}:
                    raise ValueError(f"unknown key {min(unknown)!r}")
                return cls(input=float(value.get("input", 0.0)), output=float(value.get("output", 0.0)))
            return cls(input=float(value), output=float(value))
        except ConfigError:
            raise
        except (ValueError, TypeError) as error:
            raise ConfigError(
                name="--random-range-ratio",
                value=text,
                limit=f'it must be a number or JSON such as {{"input": 0.3, "output": 0.5}} ({error})',
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPrompts:
    """Makes random prompts. as_text: for endpoints that take no token ids.

    vocabulary None: prompts are text of common words, `words_per_token` for each token asked for.
    """

    vocabulary: Vocabulary | None
    random: Random
    as_text: bool
    words_per_token: float = 1.0

    def ids_or_words(self, length: int) -> tuple[int | str, ...]:
        """So many random token ids; words where no id is known."""
        if self.vocabulary is not None:
            return tuple(self.random.choices(self.vocabulary.ids, k=length))
        return tuple(self.random.choices(_WORDS, k=max(1, round(length * self.words_per_token)) if length else 0))

    def sample(self, parts: Sequence[int | str], num_prompt: int, max_tokens: int) -> Sample:
        """A request for these ids or words."""
        if self.vocabulary is None:
            return Sample(prompt=" ".join(str(part) for part in parts), max_tokens=max_tokens)
        ids = [int(part) for part in parts]
        if not self.as_text:
            return Sample(prompt=tuple(ids), max_tokens=max_tokens, num_prompt=num_prompt)
        if self.vocabulary.tokenizer is None:
            raise ConfigError(
                name="--tokenizer",
                value=None,
                limit="the vocabulary's size is known, but not its texts, and this endpoint takes text",
                fix="Name the model's folder",
            )
        text = self._text_of_length(self.vocabulary.tokenizer, ids)
        return Sample(prompt=text, max_tokens=max_tokens, num_prompt=self.vocabulary.count(text))

    def _text_of_length(self, tokenizer: Tokenizer, ids: list[int]) -> str:
        """Text that has so many tokens when it is read again, as nearly as a few tries get it: tokens side by side
        may be read as other, fewer tokens."""
        assert self.vocabulary is not None
        length = len(ids)
        text = tokenizer.decode(ids)
        for _ in range(_TRIES):
            read = tokenizer.encode(text, add_special_tokens=False)
            if len(read) == length:
                break
            more = self.random.choices(self.vocabulary.ids, k=max(0, length - len(read)))
            text = tokenizer.decode([*read[:length], *more])
        return text or "."


def random_samples(
    prompts: RandomPrompts,
    count: int,
    *,
    input_len: int,
    output_len: int,
    prefix_len: int = 0,
    ratio: RangeRatio | None = None,
) -> list[Sample]:
    """`count` prompts of `prefix_len` tokens that all share and about `input_len` that none does."""
    ratio = ratio or RangeRatio()
    if prefix_len < 0 or prefix_len + math.floor(input_len * (1 - ratio.input)) < 1:
        raise ConfigError(
            name="--random-input-len",
            value=input_len,
            limit=f"with --random-prefix-len {prefix_len} and a range ratio of {ratio.input:g} a prompt may be empty",
        )
    prefix = prompts.ids_or_words(prefix_len)
    made: list[Sample] = []
    for _ in range(count):
        num_input = _between(input_len, ratio.input, prompts.random)
        num_output = max(1, _between(output_len, ratio.output, prompts.random))
        parts = (*prefix, *prompts.ids_or_words(num_input))
        made.append(prompts.sample(parts, prefix_len + num_input, num_output))
    return made


def prefix_repetition_samples(
    prompts: RandomPrompts, count: int, *, prefix_len: int, suffix_len: int, num_prefixes: int, output_len: int
) -> list[Sample]:
    """`num_prefixes` prefixes, each used equally often (to within one), each time with another suffix; shuffled."""
    if not 1 <= num_prefixes <= count:
        raise ConfigError(
            name="--prefix-repetition-num-prefixes",
            value=num_prefixes,
            limit=f"it must be from 1 to the number of prompts ({count})",
        )
    prefixes = [prompts.ids_or_words(prefix_len) for _ in range(num_prefixes)]
    made = [
        prompts.sample(
            (*prefixes[number % num_prefixes], *prompts.ids_or_words(suffix_len)), prefix_len + suffix_len, output_len
        )
        for number in range(count)
    ]
    prompts.random.shuffle(made)
    return made


def _between(length: int, ratio: float, random: Random) -> int:
    return random.randint(math.floor(length * (1 - ratio)), math.ceil(length * (1 + ratio)))
