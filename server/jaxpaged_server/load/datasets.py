"""Prompts out of files: conversations in ShareGPT's form, and lines of JSON with a prompt each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from jaxpaged.errors import ConfigError
from jaxpaged_server.load.sample import Sample
from jaxpaged_server.load.vocabulary import Vocabulary

CUSTOM_OUTPUT_LEN = 256
OF_THE_FILE = -1
"""--custom-output-len: every line tells its own."""
_SHORTEST, _LONGEST_PROMPT, _LONGEST = 4, 1024, 2048
"""Tokens: conversations outside these are left out, by the same limits as vLLM's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which entries of a file are taken: `count` of them, shuffled or in order, again from the start or not."""

    count: int
    random: Random
    shuffle: bool = True
    oversample: bool = True

    def order(self, entries: Iterable[Any]) -> list[Any]:
        """The entries in the order in which they are looked at."""
        found = list(entries)
        if self.shuffle:
            self.random.shuffle(found)
        return found

    def fill(self, samples: list[Sample], file: Path) -> list[Sample]:
        """As many as asked for, repeated where the file has fewer. Raises ConfigError where it has none."""
        if not samples:
            raise ConfigError(name="--dataset-path", value=str(file), limit="no entry of it can be used")
        if self.oversample and len(samples) < self.count:
            return samples + self.random.choices(samples, k=self.count - len(samples))
        return samples


def sharegpt_samples(
    file: Path, choice: Choice, *, vocabulary: Vocabulary | None, output_len: int | None
) -> list[Sample]:
    """First turns of conversations, with answers as long as the file's (or `output_len`).

    Raises ConfigError for a file that is not in ShareGPT's form, and where lengths of answers cannot be known.
    """
    if output_len is None and (vocabulary is None or vocabulary.tokenizer is None):
        raise ConfigError(
            name="--sharegpt-output-len",
            value=None,
            limit="the length of an answer is counted in tokens, and no tokenizer is known",
            fix="Give --tokenizer FOLDER, or a length",
        )
    entries = _read(file, json.loads)
    if not isinstance(entries, list):
        raise ConfigError(name="--dataset-path", value=str(file), limit="it is no list of conversations")
    samples: list[Sample] = []
    for turns in choice.order(_conversations(entries)):
        if len(samples) == choice.count:
            break
        prompt, answer = (turn["value"] for turn in turns[:2])
        num_prompt = vocabulary.count(prompt) if vocabulary else 0
        num_output = output_len if output_len is not None else vocabulary.count(answer) if vocabulary else 0
        if _is_usable(num_prompt, num_output, output_is_given=output_len is not None) and prompt:
            samples.append(Sample(prompt=prompt, max_tokens=num_output, num_prompt=num_prompt))
    return choice.fill(samples, file)


def _conversations(entries: Sequence[Any]) -> list[list[dict[str, str]]]:
    found = []
    for entry in entries:
        turns = entry.get("conversations", entry.get("conversation")) if isinstance(entry, dict) else None
        if isinstance(turns, list) and len(turns) >= 2 and all(_has_text(turn) for turn in turns[:2]):
            found.append(turns)
    return found


def _has_text(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("value"), str)


def _is_usable(num_prompt: int, num_output: int, *, output_is_given: bool) -> bool:
    if num_prompt and not _SHORTEST <= num_prompt <= _LONGEST_PROMPT:
        return False
    return num_prompt + num_output <= _LONGEST and (output_is_given or num_output >= _SHORTEST)


def custom_samples(
    file: Path,
    choice: Choice,
    *,
    vocabulary: Vocabulary | None,
    output_len: int | None,
    template: Callable[[str], str] | None = None,
) -> list[Sample]:
    """One request for each line {"prompt": "...", "output_tokens": 100}, the second where wanted.

    output_len: of every answer; None: the line's or 256; OF_THE_FILE: the line's, which must be there.
    template: makes the text that is sent of a prompt. Raises ConfigError naming the line that is wrong.
    """
    lines = [(number, line) for number, line in enumerate(_read(file, str.splitlines), 1) if line.strip()]
    samples: list[Sample] = []
    for number, line in choice.order(lines):
        if len(samples) == choice.count:
            break
        prompt, max_tokens = _custom_line(line, output_len, where=f"{file}:{number}")
        text = prompt if template is None else template(prompt)
        samples.append(
            Sample(prompt=text, max_tokens=max_tokens, num_prompt=vocabulary.count(text) if vocabulary else 0)
        )
    return choice.fill(samples, file)


def _custom_line(line: str, output_len: int | None, *, where: str) -> tuple[str, int]:
    try:
        row = json.loads(line)
        prompt, own = row["prompt"], row.get("output_tokens")
        if not isinstance(prompt, str) or not prompt:
            raise TypeError('"prompt" is no text')
        if own is not None and (not isinstance(own, int) or own < 1):
            raise TypeError('"output_tokens" is no whole number above 0')
        if output_len == OF_THE_FILE and own is None:
            raise KeyError('no "output_tokens", which --custom-output-len -1 asks for')
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            name=where, value=line[:60].strip(), limit=f'it must be a JSON object with a "prompt" ({error})'
        ) from None
    if output_len is None or output_len == OF_THE_FILE:
        return prompt, own or CUSTOM_OUTPUT_LEN
    return prompt, output_len


def _read(file: Path, decode: Callable[[str], Any]) -> Any:
    try:
        return decode(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            name="--dataset-path", value=str(file), limit=f"it cannot be read: {error.strerror or error}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            name="--dataset-path", value=str(file), limit=f"it is not what it should be: {error}"
        ) from None
