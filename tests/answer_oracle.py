"""What a request must be answered, by the model in transformers, the sampler in NumPy and llguidance's own matcher.

It shares no code with the engine. One forward pass over prompt and answer tells the model's logits after every prefix:
answers that are right at every place, each given the tokens before it, are right as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
import tokenizers
from greedy_oracle import TIE
from sampler_oracle import Asked, allowed, choose, logprobs

from jaxpaged.request import CompletionOutput, Logprob, RequestOutput
from jaxpaged.sampling_params import SamplingParams
from jaxpaged.structured.params import StructuredOutputsParams

TOLERANCE = 1e-4  # of a log probability


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an answer ends, and its text."""

    finish: str
    stop: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The grammar of an answer at one place. may: bool[V], what it leaves there. whole: whether the answer may end."""

    may: np.ndarray
    whole: bool


class AnswerOracle:
    """Checks answers of the model in a folder, each token given those before it.

    places: tokens that were checked. ties: of those, the ones where the oracle has another token that is as good.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._eos: int = self._model.config.eos_token_id
        self._vocab: int = self._model.config.vocab_size
        self._trie = llguidance.LLTokenizer(self._tokenizer.to_str(), n_vocab=self._vocab, eos_token=self._eos)
        self.places = 0
        self.dead_ends = 0
        self.ties: list[str] = []

    def check(self, name: str, params: SamplingParams, output: RequestOutput) -> None:
        """Assert that a request is answered as it must be. name: for messages."""
        assert [said.index for said in output.outputs] == list(range(params.n)), name
        for said in output.outputs:
            self._check_answer(f"{name}, answer {said.index}", params, output.prompt_token_ids, said)
        self._check_prompt(name, params, output)

    def _check_answer(self, name: str, params: SamplingParams, prompt: Sequence[int], said: CompletionOutput) -> None:
        tokens = list(said.token_ids)
        logits = self._logits([*prompt, *tokens])[len(prompt) - 1 :]
        asked = Asked(
            params=params,
            prompt=prompt,
            seed=((params.seed or 0) + said.index) & 0xFFFFFFFF,
            stop_ids=frozenset([self._eos]),
            bad_words=self._bad_words(params.bad_words or ()),
        )
        forms = self._forms(params.structured_outputs, tokens)
        end: End | None = None
        for i, token in enumerate(tokens):
            where = f"{name}, token {i} of {tokens}"
            assert end is None, f"it went on: {where}, {params}"
            form = forms[i] if forms else None
            expected = choose(logits[i], tokens[:i], asked, within=form.may if form else None, margin=TIE)
            if token != expected.token:
                assert not expected.sure, f"{token} in place of {expected.token}: {where}, {params}"
                assert allowed(self._vocab, tokens[:i], asked)[token], where
                assert form is None or form.may[token], where
                self.ties.append(f"{name}, token {i}")
            end = self._end(tokens[: i + 1], params)
        self.places += len(tokens)
        if end is None:  # nothing may come
            form = forms[-1] if forms else None
            assert form is not None, f"it does not go on: {name}, {tokens}, {params}"
            assert choose(logits[len(tokens)], tokens, asked, within=form.may).token < 0, f"{name} does not go on"
            end = End(finish="stop" if form.whole else "error", stop=None, text=self._text(tokens))
            self.dead_ends += 1
        found = End(finish=said.finish_reason or "none", stop=said.stop_reason, text=said.text)  # pyright: ignore[reportArgumentType]
        assert found == end, f"{name}: {params}"
        self._check_logprobs(name, params, tokens, logits, said)

    def _check_logprobs(
        self, name: str, params: SamplingParams, tokens: Sequence[int], logits: np.ndarray, said: CompletionOutput
    ) -> None:
        if params.logprobs is None:
            assert said.logprobs is None, name
            assert said.cumulative_logprob is None, name
            return
        assert said.logprobs is not None, name
        assert said.cumulative_logprob is not None, name
        own = [logprobs(row) for row in logits[: len(tokens)]]
        for i, (token, told) in enumerate(zip(tokens, said.logprobs, strict=True)):
            self._check_place(f"{name}, token {i}", own[i], token, told, params.logprobs)
        total = sum(row[token] for token, row in zip(tokens, own, strict=True))
        assert abs(said.cumulative_logprob - total) < TOLERANCE * max(1, len(tokens)), name

    def _check_prompt(self, name: str, params: SamplingParams, output: RequestOutput) -> None:
        if params.prompt_logprobs is None:
            assert output.prompt_logprobs is None, name
            return
        prompt, told = output.prompt_token_ids, output.prompt_logprobs
        assert told is not None, name
        assert told[0] is None, name
        logits = self._logits(prompt)
        for i, (token, place) in enumerate(zip(prompt[1:], told[1:], strict=True)):
            assert place is not None, name
            self._check_place(f"{name}, prompt {i}", logprobs(logits[i]), token, place, params.prompt_logprobs)

    def _check_place(self, name: str, own: np.ndarray, token: int, told: Any, count: int) -> None:
        """own: f64[V]. Of tokens that are as likely as each other, either may be told."""
        order = np.argsort(-own, kind="stable")
        entry: Logprob = told[token]
        assert len(told) == count + (entry.rank is not None and entry.rank > count), name
        assert {p.rank for p in told.values()} == {*range(1, count + 1), entry.rank}, name
        for other, p in told.items():
            assert abs(p.logprob - own[other]) < TOLERANCE, name
            assert abs(own[order[p.rank - 1]] - own[other]) < TOLERANCE, name
            assert p.decoded_token == self._text([other]), name

    def _end(self, tokens: Sequence[int], params: SamplingParams) -> End | None:
        """How an answer ends with the last of these tokens; None where it goes on."""
        if tokens[-1] == self._eos:
            return End(finish="stop", stop=None, text=self._text(tokens[:-1]))
        is_full = len(tokens) == params.max_tokens
        whole = self._text(tokens)
        text = whole if is_full else whole.rstrip("\ufffd")  # a character that is not there yet
        if len(tokens) > params.min_tokens:
            first = len(self._text(tokens[: params.min_tokens]).rstrip("\ufffd"))
            ends = [
                (at + len(stop), number, stop)
                for number, stop in enumerate(params.stop_strings)
                if (at := text.find(stop, first)) >= 0
            ]
            if ends:
                at, _, stop = min(ends)
                return End(
                    finish="stop", stop=stop, text=text[: at if params.include_stop_str_in_output else at - len(stop)]
                )
        return End(finish="length", stop=None, text=whole) if is_full else None

    def _forms(self, asked: StructuredOutputsParams | None, tokens: Sequence[int]) -> list[Form] | None:
        """The grammar before each token, and after the last."""
        if asked is None:
            return None
        matcher = llguidance.LLMatcher(self._trie, _grammar(asked), log_level=0)
        found = [self._form(matcher)]
        for token in tokens:
            if token == self._eos or not matcher.try_consume_tokens([token]):
                break  # what follows is told by the tokens themselves: they are not in the last form
            found.append(self._form(matcher))
        found += found[-1:] * (len(tokens) + 1 - len(found))
        assert not matcher.is_error(), matcher.get_error()
        return found

    def _form(self, matcher: llguidance.LLMatcher) -> Form:
        may = np.zeros(self._vocab, bool)
        if matcher.is_stopped():
            may[self._eos] = True
        else:
            may |= np.frombuffer(matcher.compute_logit_bias(), np.uint8)[: self._vocab] > 0
        return Form(may=may, whole=bool(may[self._eos]))

    def _bad_words(self, words: Sequence[str]) -> list[Sequence[int]]:
        """Each as a text begins with it, and, where it is as many tokens, as it stands after a blank."""
        found: list[Sequence[int]] = []
        for word in words:
            alone, within = (
                self._tokenizer.encode(start + word.lstrip(), add_special_tokens=False).ids for start in ("", " ")
            )
            found.append(alone)
            if len(alone) == len(within) and alone[0] != within[0]:
                found.append(within)
        return found

    def _text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def _logits(self, ids: Sequence[int]) -> np.ndarray:
        """f32[n, V]."""
        threads = self._torch.get_num_threads()
        self._torch.set_num_threads(1)  # several wait for each other far longer than this takes
        with self._torch.inference_mode():
            logits = self._model(input_ids=self._torch.tensor([list(ids)])).logits[0].numpy()
        self._torch.set_num_threads(threads)
        return logits


def _grammar(asked: StructuredOutputsParams) -> str:
    if asked.regex is not None:
        return llguidance.LLMatcher.grammar_from_regex(asked.regex)
    if asked.choice is not None:
        return llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, asked.choice)))
    assert isinstance(asked.json, str)
    assert asked.disable_any_whitespace
    return llguidance.LLMatcher.grammar_from_json_schema(asked.json, overrides={"whitespace_flexible": False})
