"""Answers drawn at random from what a grammar allows, without a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import numpy as np
from tokenizer_folders import TEKKEN_PATTERN, ranks

from jaxpaged.answer_end import AnswerEnd
from jaxpaged.structured.constraint import GrammarConstraint
from jaxpaged.structured.grammars import Grammars
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.tokenize import Tokenizer
from jaxpaged.tokenizer_files.byte_level import ranked_bpe

SPECIAL = ("<s>", "</s>", "<|call|>")
_CLOSERS = frozenset(b'"}],:<')


@cache
def small_tokenizer() -> Tokenizer:
    """Byte-level, of some 600 tokens."""
    special = {text: len(ranks()) + i for i, text in enumerate(SPECIAL)}
    backend = ranked_bpe(ranks(), pattern=TEKKEN_PATTERN, special=special)
    return Tokenizer(
        backend, special_tokens={"bos_token": "<s>", "eos_token": "</s>"}, eos_ids=[special["</s>"]], trusted=True
    )


@cache
def grammars_of(tokenizer: Tokenizer, width: int) -> Grammars:
    return Grammars(tokenizer, width=width)


def constraint_of(
    tokenizer: Tokenizer, *, width: int | None = None, ends: Collection[int] | None = None, **form: Any
) -> GrammarConstraint:
    grammars = grammars_of(tokenizer, width or tokenizer.vocab_size)
    return grammars.constraint(StructuredOutputsParams(**form), ends=tokenizer.eos_ids if ends is None else ends)


def mask_after(constraint: GrammarConstraint, output: Sequence[int], width: int) -> np.ndarray:
    """bool[width]: which tokens may come."""
    mask = np.full(-(-width // 32), 0xFFFFFFFF, np.uint32)
    constraint.fill(output, mask)
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:width].astype(bool)


def walk(
    constraint: GrammarConstraint,
    tokenizer: Tokenizer,
    rng: random.Random,
    *,
    most: int = 400,
    width: int | None = None,
    seen: Callable[[list[int], np.ndarray], None] = lambda output, allowed: None,
) -> tuple[list[int], bool]:
    """An answer, and whether it came to its end within `most` tokens. Tokens that close something are likelier."""
    output: list[int] = []
    for _ in range(most):
        try:
            allowed = mask_after(constraint, output, width or tokenizer.vocab_size)
        except AnswerEnd:
            return output, True
        seen(output, allowed)
        ids = np.flatnonzero(allowed).tolist()
        assert ids, f"no token may come after {tokenizer.decode(output)!r}"
        ends = [i for i in ids if i in tokenizer.eos_ids]
        if ends and (len(ids) == len(ends) or rng.random() < 0.5):
            return output, True
        others = [i for i in ids if i not in ends]
        closing = [i for i in others if _CLOSERS.issuperset(tokenizer.spell(i) or b" ")]
        output.append(rng.choice(closing if closing and rng.random() < 0.5 else others))
    return output, False


def text_of(tokenizer: Tokenizer, output: Sequence[int]) -> str:
    return tokenizer.decode(output, skip_special_tokens=False)
