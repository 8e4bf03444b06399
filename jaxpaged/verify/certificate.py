"""The certificate: all figures of a model beside the oracle, as JSON and for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxpaged.verify.figures import Figures
from jaxpaged.verify.greedy import Agreement
from jaxpaged.verify.layers import Divergence

VERSION = 1
"""Of the form of the JSON."""
_MOST_DIFFERENCES = 20  # that are written out


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a model was held and computed: what `ResolvedConfig` came to."""

    dtype: str
    quantization: str | None
    kv_cache_dtype: str
    attention_backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One setting beside the oracle. steps: how many computed chunks of the text, and how many one token."""

    setting: Setting
    figures: Figures
    greedy: Agreement
    steps: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """model, architecture, config_sha256: what was compared. text: source, tokens, contexts. float32: judged by
    `tolerance`. serving: in the types that serving would take; the same object where these are float32.

    divergence: where we and the oracle part, None where float32 is within the tolerance.
    """

    model: str
    architecture: str
    config_sha256: str
    tolerance: float
    text: dict[str, Any]
    float32: Comparison
    serving: Comparison
    divergence: Divergence | None
    device: str
    versions: dict[str, str | None]

    @property
    def passed(self) -> bool:
        """Float32 logits within the tolerance, all greedy tokens the oracle's but ties, and no setting not finite."""
        exact = self.float32
        return (
            exact.figures.relative_error <= self.tolerance
            and exact.greedy.wrong == 0
            and exact.figures.finite
            and self.serving.figures.finite
        )

    def as_json(self) -> dict[str, Any]:
        """Of plain values; a number that is none (NaN, infinity) becomes null."""
        parting = self.divergence
        return _plain(
            {
                "certificate": VERSION,
                "passed": self.passed,
                "model": self.model,
                "architecture": self.architecture,
                "config_sha256": self.config_sha256,
                "tolerance": self.tolerance,
                "text": self.text,
                "float32": _comparison_json(self.float32),
                "serving": _comparison_json(self.serving),
                "divergence": None
                if parting is None
                else {
                    "part": parting.part,
                    "branch": parting.branch or None,
                    "residual_errors": {str(layers): error for layers, error in sorted(parting.errors.items())},
                },
                "device": self.device,
                "versions": self.versions,
            }
        )

    def as_rows(self) -> Sequence[tuple[str, str]]:
        """Name and value, for a table."""
        rows = [
            ("model", f"{self.model} ({self.architecture})"),
            ("config.json", f"sha256 {self.config_sha256[:16]}"),
            ("text", f"{self.text['source']}: {self.text['tokens']} tokens, contexts of {self.text['context']}"),
            *_comparison_rows("float32", self.float32),
        ]
        if self.serving is not self.float32:
            rows += _comparison_rows("serving", self.serving)
        rows.append(("versions", ", ".join(f"{name} {number}" for name, number in self.versions.items())))
        rows.append(("device", self.device))
        if self.divergence is not None:
            errors = ", ".join(f"{layers}: {error:.1e}" for layers, error in sorted(self.divergence.errors.items()))
            rows.append(("first divergence", f"{self.divergence}  (residual off after layers {errors})"))
        exact = self.float32
        limit = f"float32 logits off by {exact.figures.relative_error:.1e} of the largest, at most {self.tolerance:.0e}"
        rows.append(("PASS" if self.passed else "FAIL", f"{limit}; {exact.greedy.wrong} greedy tokens wrong"))
        return rows


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    figures, greedy = comparison.figures, comparison.greedy
    return {
        **asdict(comparison.setting),
        "positions": figures.places,
        "max_logit_error": figures.max_error,
        "max_relative_logit_error": figures.relative_error,
        "mean_relative_logit_error": figures.mean_error,
        "top1_agreement": figures.agreement,
        "perplexity": figures.perplexity,
        "oracle_perplexity": figures.oracle_perplexity,
        "perplexity_difference": figures.perplexity_difference,
        "mean_kl_nats": figures.mean_kl,
        "finite": figures.finite,
        "steps": comparison.steps,
        "greedy": {
            "tokens": greedy.tokens,
            "equal": greedy.equal,
            "ties": greedy.ties,
            "wrong": greedy.wrong,
            "differences": [asdict(difference) for difference in greedy.differences[:_MOST_DIFFERENCES]],
        },
    }


def _comparison_rows(name: str, comparison: Comparison) -> list[tuple[str, str]]:
    figures, greedy, setting = comparison.figures, comparison.greedy, comparison.setting
    held = f", {setting.quantization} weights" if setting.quantization else ""
    told = "; ".join(
        f"answer {difference.answer} token {difference.place}: {difference.token} for {difference.oracle_token}, "
        f"{difference.gap:.1e} apart{' (tie)' if difference.tie else ''}"
        for difference in greedy.differences[:3]
    )
    broken = [] if figures.finite else [("  NOT FINITE", "some logits are infinite or no numbers")]
    return [
        (
            name,
            f"{setting.dtype}{held}, KV cache {setting.kv_cache_dtype}, {setting.attention_backend} attention, "
            f"{comparison.steps['chunks']} chunks and {comparison.steps['single tokens']} single tokens",
        ),
        ("  logits off by", f"{figures.max_error:.2e} at most, {figures.relative_error:.1e} of the largest logit"),
        ("  likeliest token", f"the same at {figures.agreement:.2%} of {figures.places} places"),
        (
            "  perplexity",
            f"{figures.perplexity:.4f}, transformers {figures.oracle_perplexity:.4f}, "
            f"difference {figures.perplexity_difference:+.1e}; KL {figures.mean_kl:.1e} nats",
        ),
        (
            "  greedy tokens",
            f"{greedy.equal} of {greedy.tokens} as transformers, {greedy.ties} ties" + (f": {told}" if told else ""),
        ),
        *broken,
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
