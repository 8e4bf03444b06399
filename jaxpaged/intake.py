"""From what a user asks to a `Request`: ids, checks, seed, length, constraints. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

from jaxpaged.config import ResolvedConfig
from jaxpaged.constraints import Constraint, Encode, constraints_of, list_constraints
from jaxpaged.errors import ParameterError
from jaxpaged.prompt import check_params, check_prompt, prompt_ids, truncated
from jaxpaged.request import Request
from jaxpaged.sampling_params import SamplingParams
from jaxpaged.structured.grammars import Grammars
from jaxpaged.think_tags import think_tags
from jaxpaged.tokenize import NoTokenizer, Tokenizer

_LISTS = 8
"""Latest constraints of lists that are kept: one that names a whole vocabulary of 131,072 tokens takes some 5 MB."""


class Intake:
    """Makes the requests of one engine. Any thread may check; what it makes depends on its arguments alone."""

    def __init__(
        self,
        config: ResolvedConfig,
        tokenizer: Tokenizer | NoTokenizer,
        *,
        vocab: int,
        max_logprobs: int,
        reasoning_config: dict[str, str],
    ) -> None:
        """max_logprobs, reasoning_config: as in `EngineConfig`. Raises ConfigError for tags without tokens."""
        self._config, self._tokenizer, self._vocab = config, tokenizer, vocab
        self._max_logprobs = max_logprobs
        self.grammars = Grammars(tokenizer, width=vocab)
        self._encode: Encode | None = None
        self._tags = None
        if isinstance(tokenizer, Tokenizer):
            self._encode = partial(tokenizer.encode, add_special_tokens=False)
            self._tags = think_tags(reasoning_config, encode=self._encode, token_id=tokenizer.token_id)
        # checked, submitted, and then had by several answers: they are made once
        self._lists = lru_cache(_LISTS)(partial(list_constraints, vocab=vocab, encode=self._encode))

    def ids_of(self, prompt: object, params: SamplingParams, *, vetted: bool = False) -> tuple[int, ...]:
        """The prompt's token ids. Raises PromptError, ContextLengthError, ParameterError and GrammarError for what
        cannot be. vetted: the form of the answer was checked elsewhere, which takes a millisecond and more."""
        longest = self._config.max_model_len
        ids = truncated(prompt_ids(prompt, self._tokenizer.encode), params, max_model_len=longest)
        check_prompt(ids, prompt, vocab=self._vocab, max_model_len=longest)
        if params.stop_strings and isinstance(self._tokenizer, NoTokenizer):
            raise ParameterError(
                name="stop", value=params.stop_strings, limit="this engine has no tokenizer", fix="Use stop_token_ids"
            )
        check_params(params, vocab=self._vocab, max_logprobs=self._max_logprobs)
        self._constraints(ids, params)
        if params.structured_outputs is not None and not vetted:
            self.grammars.check(params.structured_outputs)
        return ids

    def request(
        self, request_id: str, ids: tuple[int, ...], params: SamplingParams, *, number: int, arrival_s: float, salt: str
    ) -> Request:
        """A request of ids that `ids_of` gave. number: of the engine's requests; the seed where none is asked for.

        Raises ParameterError for constraints that cannot be.
        """
        longest = self._config.max_model_len
        return Request(
            id=request_id,
            prompt=ids,
            params=params,
            seed=(params.seed if params.seed is not None else hash((self._config.seed, number))) & 0xFFFFFFFF,
            max_tokens=min(params.max_tokens if params.max_tokens is not None else longest, longest - len(ids)),
            stop_ids=self._stop_ids(params),
            constraints=(*self._constraints(ids, params), *self._form(params, salt)),
            arrival_s=arrival_s,
            salt=salt,
        )

    def _stop_ids(self, params: SamplingParams) -> frozenset[int]:
        return frozenset(params.stop_ids) | frozenset(() if params.ignore_eos else self._tokenizer.eos_ids)

    def _form(self, params: SamplingParams, salt: str) -> tuple[Constraint, ...]:
        """The last of the constraints, which sees what the others leave. Its grammar is read meanwhile."""
        form = params.structured_outputs
        return () if form is None else (self.grammars.constraint(form, ends=params.stop_ids, salt=salt),)

    def _constraints(self, ids: Sequence[int], params: SamplingParams) -> tuple[Constraint, ...]:
        return constraints_of(
            params,
            prompt=ids,
            stop_ids=self._stop_ids(params),
            vocab=self._vocab,
            encode=self._encode,
            tags=self._tags,
            lists=self._lists,
        )
