"""What steps take of a device's memory beside weights and pool."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from jaxpaged.masks import mask_words
from jaxpaged.models.config import ModelConfig
from jaxpaged.sampling_params import MAX_BIASES

# of a step: bytes a token and element of its widest hidden vector (the gates saw 14 for Llama-3.1-8B, 11 for Mixtral),
# and bytes a row and token of the vocabulary (the sampler's 5 on a GPU, 9 on a CPU, and the logits)
_STEP_BYTES, _LOGIT_BYTES = 32, 14
_SCORE_ROWS = 128  # rows of logits that a prompt being scored has, at most (`ResolvedConfig.score_rows`)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes of the largest step, and where the figure is from: "memory_analysis" of its programs, or "estimate"."""

    num_bytes: int
    source: str


def estimate(model: ModelConfig, *, rows: int, tokens: int, max_model_len: int) -> StepMemory:
    """A rough upper bound for a step of so many rows and tokens."""
    experts = [layer.moe.top_k * max(2 * layer.moe.ffn, model.embed) for layer in model.layers if layer.moe]
    widest = max(model.ffn, model.embed, *experts)
    history = 2 * rows * max_model_len * 4  # the sampler's, in a bucket of all rows and in the smaller ones together
    num_bytes = tokens * _STEP_BYTES * widest + max(rows, _SCORE_ROWS) * model.vocab * _LOGIT_BYTES + history
    return StepMemory(num_bytes=num_bytes, source="estimate")


def options_bytes(rows: Collection[int], *, max_model_len: int, vocab: int) -> int:
    """Bytes of the stand-ins for options that no row uses, of samplers of these numbers of rows: they stay."""
    return sum(count * 4 * (max_model_len + 2 * MAX_BIASES + mask_words(vocab)) for count in rows)
