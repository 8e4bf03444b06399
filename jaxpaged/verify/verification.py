"""One verification, engine after engine: ours in float32, ours as it would serve, then the oracle on the same tokens.

Only logits of the text stay between them, f32[tokens, V] each; a model is let go before the next is loaded, but for the
search for a divergence, which needs both.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxpaged.bench.circumstances import versions
from jaxpaged.config import EngineConfig
from jaxpaged.device import this_device
from jaxpaged.engine import LLMEngine
from jaxpaged.memory import resolve_combination, resolve_dtype
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.verify.certificate import Certificate, Comparison, Setting
from jaxpaged.verify.figures import compare
from jaxpaged.verify.greedy import Agreement, differences_of
from jaxpaged.verify.layers import CutDecoder, Divergence, first_divergence
from jaxpaged.verify.oracle import Oracle, package_versions, require_packages
from jaxpaged.verify.replay import Replay, greedy_answers
from jaxpaged.verify.sample_text import SampleText, sample_text
from jaxpaged.weights.load import load_model, read_model_config
from jaxpaged.weights.source import shown_name
from pallas_kernels.backend import Backend

CONTEXT = 2048
"""Tokens of a context at most, unless asked for otherwise."""
_SINGLES = 32  # tokens at the end of every context that are computed one a step
_ROWS, _STEP_TOKENS, _SMALLEST_BLOCK = 8, 128, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ours:
    """What one of our engines gave. logits: f32[n, V] at all places of all contexts."""

    setting: Setting
    block_size: int
    logits: np.ndarray
    answers: list[list[int]]
    steps: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What to verify. asked: the engine as it would serve. text: a file, None for the bundled passage; tokens: of it,
    at most. answer_tokens: of each greedy answer. tolerance: of float32 logits, relative to the largest. progress:
    arguments of tqdm.
    """

    asked: EngineConfig
    text: Path | None
    tokens: int
    answer_tokens: int
    tolerance: float
    progress: dict[str, Any]

    def certify(self) -> Certificate:
        """Run everything. Raises ConfigError where torch or transformers is missing or the text is too short, and
        ModelError, WeightsError or UnsupportedModelError for a folder that one of the engines cannot load.
        """
        require_packages()
        asked, model = self.asked, read_model_config(self.asked.model, context=self.asked.max_model_len)
        sample = sample_text(asked.tokenizer or asked.model, self.text, tokens=self.tokens, vocab=model.vocab)
        context = min(asked.max_model_len or CONTEXT, model.max_positions, len(sample.ids))
        contexts = _contexts(sample.ids, context)
        device = this_device()
        longest = min(max(context, 32 + self.answer_tokens), model.max_positions)
        model = read_model_config(asked.model, context=longest)
        exact = self._engine_config(longest, groups=len(model.kv_groups()))
        dtype, _ = resolve_dtype(asked.dtype, model.dtype, device)
        serving = replace(exact, dtype=dtype, quantization=asked.quantization, kv_cache_dtype=asked.kv_cache_dtype)
        choice = resolve_combination(serving, model, device, dtype=dtype)  # refused before minutes of computing
        ours = [self._ours(exact, contexts, sample, name="float32")]
        if (dtype, choice.quantization, choice.kv_cache_dtype) != ("float32", None, "float32"):
            ours.append(self._ours(serving, contexts, sample, name="serving"))
        chosen_by_length = any(rope.kind == "longrope" for rope in model.ropes())
        oracle = Oracle(asked.model, length=longest if chosen_by_length else 0)
        found = self._compare(oracle, ours, contexts, sample)
        return Certificate(
            model=shown_name(Path(asked.model).resolve()),
            architecture=model.architecture,
            config_sha256=hashlib.sha256((Path(asked.model) / "config.json").read_bytes()).hexdigest(),
            tolerance=self.tolerance,
            text={"source": sample.source, "tokens": len(sample.ids), "context": context},
            float32=found[0],
            serving=found[-1],
            divergence=self._divergence(oracle, ours[0], found[0], contexts, longest=longest),
            device=f"{device.name} ({device.platform})",
            versions={**versions(), **package_versions()},
        )

    def _engine_config(self, longest: int, *, groups: int) -> EngineConfig:
        """The engine in float32, as large as the texts need. groups: of KV."""
        asked = self.asked
        per_row = -(-longest // (asked.block_size or _SMALLEST_BLOCK)) * groups
        return replace(
            asked,
            tokenizer=str(TINY_MODEL),  # token ids alone go in and out
            dtype="float32",
            quantization=None,
            kv_cache_dtype="auto",
            max_model_len=longest,
            max_num_seqs=asked.max_num_seqs or _ROWS,
            max_num_batched_tokens=asked.max_num_batched_tokens or _STEP_TOKENS,
            num_gpu_blocks_override=asked.num_gpu_blocks_override or 4 * per_row + 1,
            warmup=False,
            early_start=False,
            bundle=None,
        )

    def _ours(self, config: EngineConfig, contexts: Sequence[Sequence[int]], sample: SampleText, *, name: str) -> _Ours:
        engine = LLMEngine(config, progress=not self.progress.get("disable", False))
        replay = Replay(engine)
        progress = {**self.progress, "desc": name}
        logits = [replay.logits(ids, singles=_SINGLES, progress=progress) for ids in contexts]
        answers = greedy_answers(engine, sample.prompts(), tokens=self.answer_tokens)
        held = engine.config
        found = _Ours(
            setting=Setting(
                dtype=held.dtype,
                quantization=held.quantization,
                kv_cache_dtype=held.kv_cache_dtype,
                attention_backend=held.attention_backend,
            ),
            block_size=held.block_size,
            logits=np.concatenate(logits),
            answers=answers,
            steps=replay.steps,
        )
        del engine, replay
        gc.collect()  # weights and pool: the next model has the memory
        return found

    def _compare(
        self, oracle: Oracle, ours: Sequence[_Ours], contexts: Sequence[Sequence[int]], sample: SampleText
    ) -> list[Comparison]:
        theirs = np.concatenate([oracle.logits(ids)[:-1] for ids in contexts])
        following = np.concatenate([ids[1:] for ids in contexts])
        return [
            Comparison(
                setting=one.setting,
                figures=compare(one.logits, theirs, following),
                greedy=self._agreement(oracle, one.answers, sample),
                steps=one.steps,
            )
            for one in ours
        ]

    def _agreement(self, oracle: Oracle, answers: Sequence[Sequence[int]], sample: SampleText) -> Agreement:
        differences = []
        for number, (prompt, tokens) in enumerate(zip(sample.prompts(), answers, strict=True)):
            logits = oracle.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
            differences += differences_of(number, tokens, logits, tolerance=self.tolerance)
        return Agreement(tokens=sum(map(len, answers)), differences=tuple(differences))

    def _divergence(
        self, oracle: Oracle, ours: _Ours, found: Comparison, contexts: Sequence[Sequence[int]], *, longest: int
    ) -> Divergence | None:
        if found.figures.relative_error <= self.tolerance:
            return None
        place = found.figures.worst_place
        ids: Sequence[int] = ()
        for context in contexts:
            if place < len(context) - 1:
                ids = context[: place + 1]
                break
            place -= len(context) - 1
        backend = Backend(ours.setting.attention_backend)
        choice = resolve_combination(
            replace(self.asked, dtype="float32", quantization=None, kv_cache_dtype="auto", bundle=None),
            read_model_config(self.asked.model, context=longest),
            this_device(),
            dtype="float32",
        )
        model = load_model(self.asked.model, dtype="float32", packed=choice.packed, context=longest)
        cut = CutDecoder(model, backend, ids, block_size=ours.block_size)
        return first_divergence(
            cut,
            oracle.num_layers,
            lambda layer: oracle.residuals(ids, without_attention=layer),
            oracle.logits(ids)[-1],
            tolerance=self.tolerance,
        )


def _contexts(ids: Sequence[int], longest: int) -> list[Sequence[int]]:
    """The text in pieces of at most `longest` tokens; a last one of a single token, which nothing follows, is left
    out."""
    pieces = [ids[start : start + longest] for start in range(0, len(ids), longest)]
    return [piece for piece in pieces if len(piece) > 1]
