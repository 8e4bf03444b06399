"""A tokenizer's tokens as llguidance looks them up: a trie of their bytes. [host half: no jax]

Owns which bytes a token stands for, and that what is not text, special tokens, is never taken for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import llguidance
import numpy as np
import tokenizers

from jaxpaged.errors import ParameterError, TokenizerError
from jaxpaged.panics import is_failure
from jaxpaged.structured.spelling import spellings
from jaxpaged.structured.text_encoder import TextEncoder


class Vocabulary:
    """The trie of a tokenizer's tokens, for a model of `width` logits. Immutable; any thread may use it.

    end: a token of no text, one past all others, which stands for every end of an answer.
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, width: int) -> None:
        """Raises ParameterError for a tokenizer whose tokens have no bytes of their own."""
        try:
            tokens, special = spellings(backend)
        except TokenizerError as error:
            raise no_grammars(error.limit) from None
        tokens += [b""] * (width - len(tokens))
        self.end = len(tokens)
        told = _Tokens([*tokens, b""], special, self.end, TextEncoder(backend, tokens))
        try:
            self.trie = told.trie = llguidance.LLTokenizer(told)
        except BaseException as error:
            if not is_failure(error):
                raise
            raise no_grammars(f"its tokenizer cannot be looked up by bytes: {str(error)[:200]}") from None
        self.width = width
        self.num_words = self.end // 32 + 1  # of llguidance's masks


class _Tokens:
    """What `LLTokenizer` asks of a tokenizer. Called where text is forced, for the tokens that it has there."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], end: int, encode: TextEncoder) -> None:
        self.tokens = tokens
        self.special_token_ids = [*special, end]
        self.eos_token_id = end
        self.trie: llguidance.LLTokenizer | None = None  # made of this
        self._encode = encode

    def __call__(self, text: str) -> list[int]:
        if (ids := self._encode(text)) is not None:
            return ids
        assert self.trie is not None
        return self.trie.greedy_tokenize(text)


def no_grammars(limit: str) -> ParameterError:
    """The error of a form that is asked of an engine which cannot hold answers to one."""
    return ParameterError(name="structured_outputs", value="a form", limit=limit, fix="Leave it out")


def bits_of(tokens: Sequence[int], num_words: int) -> np.ndarray:
    """uint32[num_words], the bits of these tokens set."""
    bits = np.zeros(num_words, np.uint32)
    for token in tokens:
        if token // 32 < num_words:
            bits[token // 32] |= np.uint32(1 << token % 32)
    return bits
