"""Greedy parity with transformers, checked token by token.

One forward pass of the oracle over prompt + output tells its choice after every prefix, so equality at every place is
equality of the whole greedy run, and a tie is seen where it happens instead of hiding all that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TIE = 1e-4  # of the oracle's float32 logits: its two best lie closer than this


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The engine took `token` where the oracle prefers `best`, by `gap` logits."""

    place: int
    token: int
    best: int
    gap: float

    @property
    def is_tie(self) -> bool:
        return self.gap <= TIE


def ties_of(model: Any, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> list[str]:
    """Assert that every output is the oracle's own greedy choice, ties aside; returns the ties, in words."""
    ties = []
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        for difference in differences(model, prompt, output):
            assert difference.is_tie, f"prompt {number}: {difference}"
            ties.append(f"prompt {number}: {difference}")
    return ties


def differences(model: Any, prompt: Sequence[int], output: Sequence[int]) -> list[Difference]:
    """Places where `output` is not what `model` (a transformers causal LM, float32, eval) would choose."""
    import torch

    ids = torch.tensor([[*prompt, *output]])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0].numpy()
    found = []
    for place, token in enumerate(output):
        row = logits[len(prompt) + place - 1]
        best = int(np.argmax(row))
        if best != token:
            found.append(Difference(place=place, token=token, best=best, gap=float(row[best] - row[token])))
    return found
