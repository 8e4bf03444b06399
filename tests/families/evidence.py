"""All that is computed for one case, each part when it is first asked for: the oracle, engines' runs, paged logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from families.case import Case
from families.engine_run import EngineRun, run_engine
from families.folder import make_folder, oracle_logits
from families.paged import paged_logits
from greedy_oracle import Difference
from native_backend import backends_here

from jaxpaged.weights.load import load_model
from pallas_kernels.backend import Backend

TOLERANCE = 1e-4
"""What a float32 logit may differ by, of the largest logit."""
BFLOAT16: Mapping[bool, float] = MappingProxyType({False: 0.05, True: 0.1})
"""What a bfloat16 logit may differ by on average, of the logits' standard deviation; True: of models with experts,
where a rounded input may be sent to another one."""
_LENGTHS = (170, 101)  # of prompts for paged logits: beyond every window and many blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """How the tokens of a run compare with the oracle's own choices after the same prefixes.

    error: the largest difference of a logit, relative to the largest logit. wrong: places where another token was
    taken, and it was no tie.
    """

    error: float
    equal: int
    ties: tuple[str, ...]
    wrong: tuple[str, ...]


class Evidence:
    """folder: an empty one, for the model. cache: of compiled programs, which any number of cases share."""

    def __init__(self, case: Case, folder: Path, *, cache: Path) -> None:
        self.case = case
        self._folder, self._cache = folder, cache
        rng = np.random.default_rng(4)
        shared = self._ids(rng, 40)
        # longer than several steps and than the windows, a common beginning, and a prompt of one token
        self.prompts = [self._ids(rng, length) for length in (200, 33, 1)]
        self.prompts += [shared + self._ids(rng, length) for length in (90, 25)]
        self._paged_prompts = [self._ids(rng, length) for length in _LENGTHS]
        self._runs: dict[str, EngineRun] = {}
        self._paged_errors: dict[Backend, float] = {}

    def _ids(self, rng: np.random.Generator, count: int) -> list[int]:
        return rng.integers(0, self.case.vocab, count).tolist()

    @cached_property
    def oracle(self) -> Any:
        """transformers' model; the folder is there with it."""
        return make_folder(self._folder, self.case)

    def run(self, backend: str = "auto") -> EngineRun:
        """The whole engine's answers to `prompts`."""
        assert self.oracle is not None  # with it, the folder
        if backend not in self._runs:
            self._runs[backend] = run_engine(self._folder, self.prompts, backend=backend, cache=self._cache)
        return self._runs[backend]

    def greedy(self, backend: str = "auto") -> Greedy:
        """A run against the oracle, which is asked about every prefix of prompt and answer at once."""
        run, errors, equal = self.run(backend), [], 0
        ties, wrong = [], []
        for number, (prompt, tokens) in enumerate(zip(self.prompts, run.tokens, strict=True)):
            theirs = oracle_logits(self.oracle, [*prompt, *tokens])
            errors.append(relative_error(run.logits[number], theirs[run.places[number]]))
            for place, token in enumerate(tokens):
                row = theirs[len(prompt) + place - 1]
                best = int(np.argmax(row))
                if token == best:
                    equal += 1
                    continue
                found = Difference(place=place, token=token, best=best, gap=float(row[best] - row[token]))
                (ties if found.is_tie else wrong).append(f"prompt {number}: {found}")
        return Greedy(error=max(errors), equal=equal, ties=tuple(ties), wrong=tuple(wrong))

    @cached_property
    def paged_oracle(self) -> list[np.ndarray]:
        """f32[T, V] of the prompts whose paged logits are computed."""
        return [oracle_logits(self.oracle, prompt) for prompt in self._paged_prompts]

    def paged_error(self, backend: Backend, *, block_size: int) -> float:
        """The largest error of a float32 logit by a backend, relative to the largest logit."""
        if backend not in self._paged_errors:
            found = self._paged(backend, block_size=block_size, dtype="float32")
            errors = (relative_error(mine, theirs) for mine, theirs in zip(found, self.paged_oracle, strict=True))
            self._paged_errors[backend] = max(errors)
        return self._paged_errors[backend]

    @cached_property
    def bfloat16_error(self) -> float:
        """The mean error of a logit with weights and pool in bfloat16, relative to the logits' standard deviation."""
        found = self._paged(backends_here()[-1], block_size=16, dtype="bfloat16")
        pairs = list(zip(found, self.paged_oracle, strict=True))
        return max(float(np.abs(mine - theirs).mean() / theirs.std()) for mine, theirs in pairs)

    def _paged(self, backend: Backend, *, block_size: int, dtype: str) -> list[np.ndarray]:
        assert self.oracle is not None  # with it, the folder
        model = load_model(self._folder, dtype=dtype)
        return paged_logits(model, self._paged_prompts, backend, block_size=block_size, dtype=dtype)


def relative_error(mine: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two f32[n, V], relative to the largest of the second."""
    assert mine.shape == theirs.shape, f"{mine.shape} beside {theirs.shape}"
    assert np.isfinite(mine).all(), "not all logits are finite"
    assert theirs.std() > 0.1 * np.abs(theirs).max(), "logits too flat to tell anything"
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())
