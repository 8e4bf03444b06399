"""From what is asked to requests: what is made once, and what of each its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from grammar_walk import small_tokenizer

from jaxpaged.answers import params_of_answers
from jaxpaged.errors import ParameterError
from jaxpaged.intake import Intake
from jaxpaged.request import Request
from jaxpaged.sampling_params import MAX_BAD_WORD, SamplingParams


class Encodings:
    """What is encoded, by a tokenizer that is watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        tokenizer = small_tokenizer()
        encode = tokenizer.encode

        def watched(text: str, *, add_special_tokens: bool = True) -> list[int]:
            self.texts.append(text)
            return encode(text, add_special_tokens=add_special_tokens)

        monkeypatch.setattr(tokenizer, "encode", watched)
        config: Any = SimpleNamespace(max_model_len=64, seed=0)
        self.intake = Intake(config, tokenizer, vocab=tokenizer.vocab_size, max_logprobs=20, reasoning_config=THINKING)
        self.texts.clear()

    def requests(self, params: SamplingParams) -> list[Request]:
        ids = self.intake.ids_of([5, 6], params)
        return [
            self.intake.request(f"{i}", ids, of_one, number=i, arrival_s=0.0, salt="")
            for i, of_one in enumerate(params_of_answers(params))
        ]


THINKING = {"reasoning_start_str": "<s>", "reasoning_end_str": "</s>"}


def test_words_are_read_once_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Encodings(monkeypatch)
    options: Any = {"seed": 3, "bad_words": ["ab", "cd"], "allowed_token_ids": [1, 2, 3], "max_tokens": 4}
    first, *others = it.requests(SamplingParams(n=5, thinking_token_budget=2, **options))
    assert it.texts == ["ab", " ab", "cd", " cd"]
    for one in others:
        assert one.constraints[:-1] == first.constraints[:-1], "what remembers nothing is shared"
        assert one.constraints[-1] is not first.constraints[-1], "what follows an answer is its own"
    (alone,) = it.requests(SamplingParams(**options | {"bad_words": ["ab"]}))
    assert len(it.texts) == 6
    mask = np.full(-(-small_tokenizer().vocab_size // 32), 0xFFFFFFFF, np.uint32)
    for constraint in alone.constraints:
        constraint.fill([], mask)
    assert mask[0] == 0b1110


def test_words_without_tokens_are_refused_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Encodings(monkeypatch)
    for _ in range(2):
        with pytest.raises(ParameterError, match="bad_words is ' '"):
            it.requests(SamplingParams(bad_words=[" "]))


def test_a_word_has_a_greatest_length() -> None:
    SamplingParams(bad_words=["a" * MAX_BAD_WORD])
    with pytest.raises(ParameterError, match=f"bad_words is .*257 characters.*at most {MAX_BAD_WORD}"):
        SamplingParams(bad_words=["b", "a" * (MAX_BAD_WORD + 1)])
