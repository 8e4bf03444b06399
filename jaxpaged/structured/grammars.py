"""An engine's grammars: checked, read in other threads, and handed to the requests that asked for them.
[host half: no jax]
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import cast

import llguidance

from jaxpaged.errors import GrammarError
from jaxpaged.structured.constraint import Compiled, GrammarConstraint
from jaxpaged.structured.grammar import grammar_of
from jaxpaged.structured.library import limits, one_line
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.spelling import decoder_types, has_bytes
from jaxpaged.structured.vocabulary import Vocabulary, no_grammars
from jaxpaged.tokenize import NoTokenizer, Tokenizer

_REMEMBERED = 64
"""Grammars whose texts are kept: most requests of a service have one of a few."""
_NUM_THREADS = 2


class Grammars:
    """What an engine knows of its tokenizer for grammars. Any thread may use it.

    width: tokens that the model gives logits of. The trie of the tokens is made once, by `prepare` or when it is first
    needed; half a second for a hundred thousand of them.
    """

    def __init__(self, tokenizer: Tokenizer | NoTokenizer, *, width: int) -> None:
        self._tokenizer = tokenizer
        self._width = width
        self._lock = Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._vocabulary: Future[Vocabulary] | None = None
        self._text = lru_cache(_REMEMBERED)(self._make_text)

    def prepare(self) -> None:
        """Begin to make the trie, if it was not before, and do not wait for it."""
        if self._why_not() is None:
            self._begin()

    def check(self, params: StructuredOutputsParams) -> None:
        """Raise what is wrong with a form: ParameterError where this engine has no grammars, GrammarError."""
        if (why_not := self._why_not()) is not None:
            raise no_grammars(why_not)
        self._text(params)

    def constraint(self, params: StructuredOutputsParams, *, ends: Collection[int]) -> GrammarConstraint:
        """The constraint of one answer. Its grammar is read meanwhile; what is wrong with it is raised by the first fill.

        ends: tokens that end the answer.
        """
        assert isinstance(self._tokenizer, Tokenizer), "a form is checked before a constraint is made of it"
        vocabulary = self._begin()
        assert self._threads is not None
        compiling = self._threads.submit(lambda: self._compile(params, vocabulary.result()))

        def compiled() -> Compiled:
            matcher, vocabulary = compiling.result()
            return matcher.deep_copy(), vocabulary

        return GrammarConstraint(compiled, ends={*ends, *self._tokenizer.eos_ids})

    def _begin(self) -> Future[Vocabulary]:
        with self._lock:
            if self._vocabulary is None:
                backend = cast("Tokenizer", self._tokenizer).backend
                self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammars")
                self._vocabulary = self._threads.submit(Vocabulary, backend, width=self._width)
            return self._vocabulary

    def _why_not(self) -> str | None:
        """Why answers can be held to no form at all; None where they can."""
        if not isinstance(self._tokenizer, Tokenizer):
            return "this engine has no tokenizer"
        kinds = decoder_types(self._tokenizer.backend.decoder)
        return None if has_bytes(kinds) else "this model's tokens have no bytes of their own"

    def _make_text(self, params: StructuredOutputsParams) -> str:
        tokenizer = cast("Tokenizer", self._tokenizer)
        ids = sorted(tokenizer.special_ids)
        return grammar_of(params, special=dict(zip(tokenizer.token_strings(ids), ids, strict=True)))

    def _compile(self, params: StructuredOutputsParams, vocabulary: Vocabulary) -> Compiled:
        text = self._text(params)
        matcher = llguidance.LLMatcher(vocabulary.trie, text, log_level=0, limits=limits())
        if matcher.is_error():
            said = one_line(matcher.get_error())
            raise GrammarError(
                name="structured_outputs", value=params.kind, limit=f"no grammar can be made of it: {said}"
            )
        return matcher, vocabulary
