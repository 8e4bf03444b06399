"""`jaxpaged bench accuracy`: what an option costs in accuracy, as one JSON object."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxpaged.commands.flags import EngineFlags, OptionalPath, Switch, parse
from jaxpaged.commands.terminal import progress_options, start_engine, write
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError

_CONTEXT = 2048
_SMALLEST_BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyOptions:
    """Score a text with weights and KV cache as asked for, and print how far the logits move.

    What they are compared with is the same model unquantised, its KV cache in the type of the weights.
    Places are scored in contexts of --max-model-len tokens (here by default 2048, or fewer where the model ends).
    """

    input: OptionalPath = None
    """Text file to score (default: files of Python's standard library that the bundled model never saw)."""
    tokens: int = 4096
    """Tokens of the text to score."""
    quiet: Switch = False
    """No start-up table and no progress."""
    engine: EngineFlags = field(default_factory=lambda: EngineConfig(warmup=False))
    """As in `LLM(...)`; names and meanings are vLLM's."""

    def check(self) -> None:
        """Raise ConfigError for a comparison that says nothing."""
        if self.tokens < 2:
            raise ConfigError(name="--tokens", value=self.tokens, limit="it must be at least 2")
        if self.engine.kv_cache_dtype == "auto" and self.engine.quantization is None:
            raise ConfigError(
                name="--kv-cache-dtype",
                value="auto",
                limit="that is what the other types are compared with",
                fix="Give bf16, int8 or fp8, or --quantization int8",
            )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(AccuracyOptions, argv, prog="jaxpaged bench accuracy")
    options.check()
    source, text = _read(options.input)
    write(json.dumps(measure(options, text, source=source)) + "\n")
    return 0


def measure(options: AccuracyOptions, text: str, *, source: str) -> dict[str, Any]:
    """The figures of `text` as one row. Raises ConfigError as the engine does, and for a text that is too short."""
    from jaxpaged.bench.accuracy import Scorer, compare  # starts jax
    from jaxpaged.bench.circumstances import versions
    from jaxpaged.memory import resolve_combination
    from jaxpaged.programs import Programs
    from jaxpaged.runner import ModelRunner
    from jaxpaged.weights.load import load_model, read_model_config

    asked = options.engine
    shape = read_model_config(asked.model)
    context = asked.max_model_len or min(_CONTEXT, shape.max_positions)
    blocks = len(shape.kv_groups()) * -(-context // (asked.block_size or _SMALLEST_BLOCK)) + 1  # nothing is given up
    plain = replace(
        asked,
        quantization=None,
        kv_cache_dtype="auto",
        max_model_len=context,
        max_num_seqs=1,
        num_gpu_blocks_override=blocks,
        warmup=False,
    )
    engine = start_engine(plain, quiet=options.quiet)
    choice = resolve_combination(asked, engine.model_config, engine.device, dtype=engine.config.dtype)
    baseline = Scorer(engine.runner)
    model, config = engine.runner.model, replace(engine.config, kv_cache_dtype=choice.kv_cache_dtype)
    if choice.quantization:
        form = {"dtype": engine.config.dtype, "packed": choice.packed, "quantization": choice.quantization}
        model = load_model(asked.model, **form, context=context, progress=not options.quiet)
    variant = Scorer(ModelRunner(Programs(model, replace(config, quantization=choice.quantization))))
    ids = engine.tokenizer.encode(text)[: options.tokens]
    found = compare(baseline, variant, ids, progress=progress_options(quiet=options.quiet))
    return {
        "engine": "jaxpaged",
        "mode": "accuracy",
        "model": engine.config.model.name,
        "text": source,
        "context": context,
        "dtype": engine.config.dtype,
        "attention_backend": engine.config.attention_backend,
        **{
            f"{name}_{key}": value
            for name, scorer in (("baseline", baseline), ("variant", variant))
            for key, value in (
                ("quantization", scorer.runner.config.quantization),
                ("weight_bytes", sum(leaf.nbytes for leaf in scorer.runner.leaves)),
                ("kv_cache_dtype", scorer.runner.config.kv_cache_dtype),
                ("kv_bytes_per_token", scorer.kv_bytes_per_token),
            )
        },
        **found.row(),
        "device": f"{engine.device.name} ({engine.device.platform})",
        "versions": versions(),
    }


def _read(path: Path | None) -> tuple[str, str]:
    """What the text is called, and the text."""
    if path is None:
        from jaxpaged.tiny.corpus import read_corpus

        return f"held-out files of Python {platform.python_version()}'s library", "".join(read_corpus().held_out)
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(name="--input", value=str(path), limit=why, fix="Give a text file in UTF-8") from error
