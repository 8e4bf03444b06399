"""A tokenizer's tokens as llguidance looks them up: a trie of their bytes. [host half: no jax]

Owns which bytes a token stands for, and that what is not text, special tokens, is never taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import llguidance
import numpy as np
import tokenizers

from jaxpaged.errors import GrammarError, ParameterError, TokenizerError
from jaxpaged.panics import is_failure
from jaxpaged.structured.library import limits, one_line
from jaxpaged.structured.spelling import spellings
from jaxpaged.structured.text_encoder import TextEncoder

Encode = Callable[[str], "list[int] | None"]
_END_NAME = b"\0"
"""Of the token that stands for an end. With no name it would be the beginning of every special token's, and so be
allowed wherever one is."""


class Vocabulary:
    """The trie of some tokens, for a model of `width` logits. Immutable; any thread may use it.

    end: a token of no text, one past all others, which stands for every end of an answer.
    """

    def __init__(self, tokens: Sequence[bytes], special: Collection[int], *, encode: Encode, width: int) -> None:
        """tokens: their bytes, by id. encode: the tokens of a text, None where it has none for it.

        Raises ParameterError for tokens that cannot be looked up.
        """
        tokens = [*tokens, *[b""] * (width - len(tokens))]
        self.width = width
        self.end = len(tokens)
        self.num_words = self.end // 32 + 1  # of llguidance's masks
        told = _Tokens([*tokens, _END_NAME], special, self.end, encode)
        try:
            self._trie = told.trie = llguidance.LLTokenizer(told)  # pyright: ignore[reportArgumentType]
        except BaseException as error:
            if not is_failure(error):
                raise
            raise no_grammars(f"its tokenizer cannot be looked up by bytes: {str(error)[:200]}") from None

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer, *, width: int) -> Vocabulary:
        """A tokenizer's. Raises ParameterError for one whose tokens have no bytes of their own."""
        try:
            tokens, special = spellings(backend)
        except TokenizerError as error:
            raise no_grammars(error.limit) from None
        return cls(tokens, special, encode=TextEncoder(backend, tokens), width=width)

    def matcher(self, grammar: str, *, kind: str) -> llguidance.LLMatcher:
        """What reads answers by a grammar. Raises GrammarError. kind: of form, for the error."""
        matcher = llguidance.LLMatcher(self._trie, grammar, log_level=0, limits=limits())
        if matcher.is_error():
            said = one_line(matcher.get_error())
            raise GrammarError(name=kind, value="a form", limit=f"no grammar can be made of it: {said}")
        return matcher

    def first_mask(self, matcher: llguidance.LLMatcher) -> None:
        """Let a fresh matcher find out what it needs for its first mask; its copies know it as well."""
        mask = np.zeros(self.num_words, np.uint32)
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)


class _Tokens:
    """What `LLTokenizer` asks of a tokenizer. Called where text is forced, for the tokens that it has there."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Collection[int], end: int, encode: Encode) -> None:
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
