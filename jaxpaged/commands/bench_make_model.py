"""`jaxpaged bench make-model`: a model folder with random weights, one JSON object about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxpaged.bench.shapes import shape_config
from jaxpaged.commands.flags import Switch, parse
from jaxpaged.commands.terminal import write


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeModelOptions:
    """Write a model of random weights in Hugging Face layout, with the bundled tokenizer: any engine can read it.

    The same shape, seed and type give the same values.
    """

    shape: str
    """A well-known model (llama-150m, qwen2.5-0.5b, llama-3.1-8b, ...) or a config.json."""
    output: Path
    """Folder to make."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrices in the file; engines convert it to their own."""
    seed: int = 0
    """Of the weights."""
    quiet: Switch = False
    """No progress."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(MakeModelOptions, argv, prog="jaxpaged bench make-model")
    shape_config(options.shape)  # an unknown one is told before jax starts
    from jaxpaged.bench.model_folder import write_model

    made = write_model(
        options.shape, options.output, seed=options.seed, dtype=options.dtype, progress=not options.quiet
    )
    write(json.dumps(made) + "\n")
    return 0
