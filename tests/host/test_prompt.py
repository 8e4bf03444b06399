"""What a prompt may be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jaxpaged.errors import ParameterError, PromptError
from jaxpaged.prompt import check_params, prompt_ids
from jaxpaged.sampling_params import SamplingParams


@pytest.mark.parametrize(
    ("prompt", "ids"), [("ab", (97, 98)), ([1, 2], (1, 2)), (range(3), (0, 1, 2)), (np.array([4, 5]), (4, 5))]
)
def test_texts_and_ids(prompt: object, ids: tuple[int, ...]) -> None:
    assert prompt_ids(prompt, lambda text: [*text.encode()]) == ids


@pytest.mark.parametrize(
    "prompt", [None, 3, b"ab", {1: 2}, np.array(3), np.zeros((2, 2), int), [[1]], [True], [1.0], np.array([1.5])]
)
def test_everything_else_is_refused(prompt: object) -> None:
    with pytest.raises(PromptError, match="prompt"):
        prompt_ids(prompt, lambda _: [])


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_max_logprobs_binds_the_logprobs_of_answer_and_prompt(name: str) -> None:
    for most, asked in ((3, 3), (0, 0), (-1, 20)):
        check_params(replace(SamplingParams(), **{name: asked}), vocab=50, max_logprobs=most)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ParameterError, match=f"^{name} is 4: a request may ask for 3 a token at most.*max_logprobs"):
        check_params(replace(SamplingParams(), **{name: 4}), vocab=50, max_logprobs=3)  # pyright: ignore[reportArgumentType]
