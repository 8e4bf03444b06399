"""An engine's grammars: checked, read in other threads, and handed to the requests that asked for them.
[host half: no jax]
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from threading import Lock
from typing import cast

from jaxpaged.structured.constraint import GrammarConstraint
from jaxpaged.structured.grammar import grammar_of
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.processes import GrammarProcesses
from jaxpaged.structured.readings import Compiled, Readings
from jaxpaged.structured.spelling import decoder_types, has_bytes, spellings
from jaxpaged.structured.vocabulary import Vocabulary, no_grammars
from jaxpaged.structured.wire import Setup
from jaxpaged.tokenize import NoTokenizer, Tokenizer

_REMEMBERED = 64
"""Forms that are not checked again: most requests of a service have one of a few."""
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
        self._readings = Readings()
        self._children: GrammarProcesses | None = None  # made when a form is first checked
        self._checked = lru_cache(_REMEMBERED)(lambda params: len(self._processes().grammar(params)))

    def prepare(self) -> None:
        """Begin to make the trie, if it was not before, and do not wait for it."""
        if self._why_not() is None:
            self._begin()

    def check(self, params: StructuredOutputsParams) -> None:
        """Raise what is wrong with a form: ParameterError where this engine has no grammars, GrammarError, and
        ChildError where the process that reads grammars first does not start."""
        if (why_not := self._why_not()) is not None:
            raise no_grammars(why_not)
        self._checked(params)

    def constraint(
        self, params: StructuredOutputsParams, *, ends: Collection[int], salt: str = ""
    ) -> GrammarConstraint:
        """The constraint of one answer. Its grammar is read meanwhile, once for all answers that ask for the same; what
        is wrong with it the first fill raises.

        ends: tokens that end the answer. salt: answers share what is known of a grammar within this namespace alone.
        """
        assert isinstance(self._tokenizer, Tokenizer), "a form is checked before a constraint is made of it"
        vocabulary = self._begin()
        assert self._threads is not None
        reading = self._readings.of((params, salt), self._threads, lambda: self._read(params, vocabulary.result()))
        return GrammarConstraint(reading, ends={*ends, *self._tokenizer.eos_ids})

    def close(self) -> None:
        """End the processes, if there are any, once what they read now is read; the next form starts another."""
        if self._children is not None:
            self._children.close()

    def _begin(self) -> Future[Vocabulary]:
        with self._lock:
            if self._vocabulary is None:
                backend = cast("Tokenizer", self._tokenizer).backend
                self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammars")
                self._vocabulary = self._threads.submit(Vocabulary.of, backend, width=self._width)
            return self._vocabulary

    def _why_not(self) -> str | None:
        """Why answers can be held to no form at all; None where they can."""
        if not isinstance(self._tokenizer, Tokenizer):
            return "this engine has no tokenizer"
        kinds = decoder_types(self._tokenizer.backend.decoder)
        return None if has_bytes(kinds) else "this model's tokens have no bytes of their own"

    @cached_property
    def _special(self) -> dict[str, int]:
        """The special tokens by their texts."""
        tokenizer = cast("Tokenizer", self._tokenizer)
        ids = sorted(tokenizer.special_ids)
        return dict(zip(tokenizer.token_strings(ids), ids, strict=True))

    def _processes(self) -> GrammarProcesses:
        with self._lock:
            if self._children is None:
                tokens, no_text = spellings(cast("Tokenizer", self._tokenizer).backend)
                self._children = GrammarProcesses(Setup(special=self._special, tokens=tokens, no_text=no_text))
            return self._children

    def _read(self, params: StructuredOutputsParams, vocabulary: Vocabulary) -> Compiled:
        """Of a form that was checked, here or by who sent it."""
        grammar = grammar_of(params, special=self._special, vetted=True)
        matcher = vocabulary.matcher(grammar, kind=params.kind)
        vocabulary.first_mask(matcher)  # what takes long the first time, not within a step
        return matcher, vocabulary
