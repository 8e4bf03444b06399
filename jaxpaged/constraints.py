"""What of the vocabulary may come next in an answer: the constraints of a request. [host half: no jax]

A constraint is a function of the answer so far, and of nothing else that is seen from outside: preemption, drafted
tokens and forks need no word to it. What it clears is -inf for the sampler, so constraints go together in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from jaxpaged.errors import ParameterError, PromptError
from jaxpaged.masks import mask_of
from jaxpaged.sampling_params import MAX_BAD_WORDS, SamplingParams
from jaxpaged.think_tags import ThinkTags
from jaxpaged.thinking import ThinkingBudget

Encode = Callable[[str], Sequence[int]]


class Constraint(Protocol):
    """One thing that an answer must keep to.

    follows: whether it looks at the answer's tokens, so that the next token can be drawn only when the last one is
    known. One that does not may look at how many there are, and may be given `PENDING` for the last.
    """

    @property
    def follows(self) -> bool: ...

    def fill(self, output: Sequence[int], mask: np.ndarray) -> None:
        """Clear in mask, uint32[mask_words], the bits of the tokens that may not come after these."""
        ...


Lists = Callable[[tuple[int, ...] | None, tuple[str, ...], int, frozenset[int]], tuple[Constraint, ...]]
"""Makes constraints of allowed_token_ids, bad_words, min_tokens and all tokens that end an answer."""


class AllowedTokens:
    """Nothing but these tokens (`allowed_token_ids`)."""

    follows = False

    def __init__(self, tokens: Iterable[int], *, vocab: int) -> None:
        self._allowed = mask_of(tokens, vocab=vocab)

    def fill(self, output: Sequence[int], mask: np.ndarray) -> None:
        del output
        mask &= self._allowed


class BarredTokens:
    """None of these tokens before the answer has so many (stop tokens under `min_tokens`), or ever: words of one token
    among `bad_words`."""

    follows = False

    def __init__(self, tokens: Iterable[int], *, vocab: int, until: int | None = None) -> None:
        self._others = ~mask_of(tokens, vocab=vocab)
        self._until = until

    def fill(self, output: Sequence[int], mask: np.ndarray) -> None:
        if self._until is None or len(output) < self._until:
            mask &= self._others


class BarredSequences:
    """None of these sequences of two tokens or more (`bad_words`): the last one may not follow on all others.

    A sequence counts within the answer alone, so its beginning at the end of a prompt is none: as in vLLM.
    """

    follows = True

    def __init__(self, sequences: Iterable[Sequence[int]], *, vocab: int) -> None:
        self._ends: dict[int, list[tuple[list[int], int]]] = defaultdict(list)  # by the last token of the beginning
        for *beginning, end in sequences:
            assert beginning, "a sequence of one token is a barred token"
            if end < vocab:
                self._ends[beginning[-1]].append((beginning, end))

    def fill(self, output: Sequence[int], mask: np.ndarray) -> None:
        for beginning, end in self._ends.get(output[-1], ()) if output else ():
            if list(output[-len(beginning) :]) == beginning:
                mask[end // 32] &= np.uint32(0xFFFFFFFF ^ (1 << (end % 32)))


def constraints_of(
    params: SamplingParams,
    *,
    prompt: Sequence[int],
    stop_ids: Collection[int],
    vocab: int,
    encode: Encode | None,
    tags: ThinkTags | None,
    lists: Lists | None = None,
) -> tuple[Constraint, ...]:
    """The constraints that a request's own options are.

    stop_ids: all that end its answer. encode: a text's tokens without special ones around, None where there is no
    tokenizer. tags: what the model's thinking stands between, where that is known. lists: `list_constraints` of this
    vocabulary and tokenizer that remembers what it made; those are shared then, the others are made anew.
    Raises ParameterError for options that cannot be kept to, or that together leave no token from the first place on.
    """
    allowed = None if params.allowed_token_ids is None else tuple(params.allowed_token_ids)
    make = lists or partial(list_constraints, vocab=vocab, encode=encode)
    made = make(allowed, tuple(params.bad_words or ()), params.min_tokens, frozenset(stop_ids))
    if params.thinking_token_budget is None:
        return made
    return (*made, _thinking_budget(params.thinking_token_budget, prompt=prompt, vocab=vocab, tags=tags))


def list_constraints(
    allowed_token_ids: tuple[int, ...] | None,
    bad_words: tuple[str, ...],
    min_tokens: int,
    stop_ids: frozenset[int],
    *,
    vocab: int,
    encode: Encode | None,
) -> tuple[Constraint, ...]:
    """The constraints that lists of tokens and words are: they remember nothing, so that several requests may have the
    same ones, and several threads fill them. To make them can take as long as many steps. Raises ParameterError."""
    made: list[Constraint] = []
    if allowed_token_ids is not None:
        made.append(AllowedTokens(allowed_token_ids, vocab=vocab))
    barred: set[int] = set()
    if bad_words:
        sequences = bad_word_ids(bad_words, encode)
        barred = {tokens[0] for tokens in sequences if len(tokens) == 1}
        if barred:
            made.append(BarredTokens(barred, vocab=vocab))
        if longer := [tokens for tokens in sequences if len(tokens) > 1]:
            made.append(BarredSequences(longer, vocab=vocab))
    if min_tokens and stop_ids:
        made.append(BarredTokens(stop_ids, vocab=vocab, until=min_tokens))
    if allowed_token_ids is not None:
        _check_first_token(allowed_token_ids, barred | (stop_ids if min_tokens else set()), min_tokens)
    return tuple(made)


def bad_word_ids(words: Sequence[str], encode: Encode | None) -> list[tuple[int, ...]]:
    """The tokens of each word as it begins a text and, where that is one other token at its front, within one: as in
    vLLM. Raises ParameterError for a word without tokens, for more than MAX_BAD_WORDS sequences, and for no tokenizer.
    """
    if encode is None:
        fix = "Use logit_bias or allowed_token_ids"
        raise ParameterError(name="bad_words", value=words, limit="this engine has no tokenizer", fix=fix)
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        text = word.lstrip()
        try:
            alone, within = tuple(encode(text)), tuple(encode(f" {text}"))
        except PromptError as error:
            raise ParameterError(name="bad_words", value=word, limit=error.limit, fix=error.fix) from error
        if not alone:
            limit = "each must have at least one token"
            raise ParameterError(name="bad_words", value=word, limit=limit, fix="Leave this one out")
        found[alone] = None
        if len(within) == len(alone) and within[0] != alone[0]:
            found[within] = None
    if len(found) > MAX_BAD_WORDS:
        limit = f"with and without a blank before them they may be {MAX_BAD_WORDS} sequences of tokens at most"
        raise ParameterError(name="bad_words", value=len(found), limit=limit, fix="Give fewer")
    return list(found)


def _thinking_budget(budget: int, *, prompt: Sequence[int], vocab: int, tags: ThinkTags | None) -> ThinkingBudget:
    if tags is None:
        raise ParameterError(
            name="thinking_token_budget",
            value=budget,
            limit="nothing tells what this model's thinking stands between",
            fix='Start the engine with reasoning_config={"reasoning_start_str": ..., "reasoning_end_str": ...}',
        )
    return ThinkingBudget(budget, tags=tags, prompt=prompt, vocab=vocab)


def _check_first_token(allowed: tuple[int, ...], barred: Collection[int], min_tokens: int) -> None:
    if not set(allowed) <= set(barred):
        return
    others = "bad_words" if not min_tokens else f"bad_words and min_tokens={min_tokens}"
    raise ParameterError(
        name="allowed_token_ids",
        value=allowed,
        limit=f"{others} leave none of them for the first token",
        fix="Allow another token, one that does not end the text",
    )
