"""The tokens that both engines score, and the prompts that both answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxpaged.errors import ConfigError, TokenizerError
from jaxpaged.tokenize import Tokenizer

PASSAGE = Path(__file__).with_name("passage.txt")
"""Prose, code, JSON, a table and six languages, written for this."""
_PROMPTS = 4
_PROMPT_TOKENS = 24  # of the longest prompt; the others are shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleText:
    """ids: the tokens. source: what they are, for people."""

    ids: tuple[int, ...]
    source: str

    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """Beginnings of different lengths at different places, one of a single token."""
        lengths = [_PROMPT_TOKENS, _PROMPT_TOKENS // 2, _PROMPT_TOKENS // 4, 1][:_PROMPTS]
        stride = max(1, len(self.ids) // _PROMPTS)
        starts = [min(i * stride, len(self.ids) - 1) for i in range(_PROMPTS)]
        return tuple(self.ids[start : start + length] for start, length in zip(starts, lengths, strict=True))


def sample_text(tokenizer_folder: str, text: Path | None, *, tokens: int, vocab: int) -> SampleText:
    """At most `tokens` tokens of a text file, or of the bundled passage; random ids where there is no tokenizer.

    Raises TokenizerError where a text was named and cannot be read as tokens, ConfigError for a file that is no text or
    has fewer than two tokens.
    """
    try:
        tokenizer = Tokenizer.load(tokenizer_folder)
    except TokenizerError as error:
        if text is not None:
            raise
        ids = np.random.default_rng(0).integers(0, vocab, tokens).tolist()
        return SampleText(ids=tuple(ids), source=f"random token ids, for there is no tokenizer ({error.limit})")
    name, content = ("bundled passage", PASSAGE.read_text(encoding="utf-8")) if text is None else _read(text)
    ids = tuple(tokenizer.encode(content)[:tokens])
    if len(ids) < 2:
        raise ConfigError(name="--text", value=name, limit="it must have at least 2 tokens", fix="Give a longer one")
    if (largest := max(ids)) >= vocab:
        raise ConfigError(
            name="tokenizer",
            value=largest,
            limit=f"a token of the text is past the model's vocabulary of {vocab}",
            fix="Give the model's own tokenizer with --tokenizer",
        )
    return SampleText(ids=ids, source=name)


def _read(path: Path) -> tuple[str, str]:
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(name="--text", value=str(path), limit=why, fix="Give a text file in UTF-8") from error
