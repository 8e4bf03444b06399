"""`jaxpaged convert`: write a model's weights as an engine holds them, so that later starts only read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import tyro

from jaxpaged.commands.flags import OptionalText, Switch, parse
from jaxpaged.commands.terminal import say
from jaxpaged.config import EngineConfig
from jaxpaged.weights.manifest import check_place
from jaxpaged.weights.source import localised, shown_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Read a model once, fuse and cast its weights, and write a folder that --model takes.

    The folder serves any device: what a machine wants packed is packed as it is read. It is whole or not there.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of the model in Hugging Face layout, its name on the hub, or a GGUF file."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write; a converted model that is there is replaced."""
    dtype: Annotated[str, tyro.conf.arg(metavar="{auto,float32,bfloat16}")] = "auto"
    """Type of the weights; auto: float32 where the model has that, else bfloat16."""
    tokenizer: OptionalText = None
    """Folder or name of the tokenizer (default: the model's)."""
    quantization: Annotated[str | None, tyro.conf.arg(metavar="{int8}")] = None
    """int8: matrices of 8 bits with a scale per output."""
    revision: OptionalText = None
    """Branch, tag or commit of a model on the hub (default: main)."""
    hf_token: OptionalText = None
    """Token for the hub; others can read a command line, so better in HF_TOKEN (default: that, or the stored one)."""
    download_dir: OptionalText = None
    """Folder for what is downloaded (default: the cache of huggingface_hub)."""
    quiet: Switch = False
    """No progress and no figures."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(ConvertOptions, argv, prog="jaxpaged convert")
    check_place(options.out)
    names = ("model", "tokenizer", "dtype", "quantization", "revision", "hf_token", "download_dir")
    asked = EngineConfig(**{name: getattr(options, name) for name in names})
    config = localised(asked, progress=not options.quiet)
    from jaxpaged.weights.converted import write_converted  # starts jax
    from jaxpaged.weights.load import load_model, read_model_config

    dtype: str = config.dtype
    if dtype == "auto":
        dtype = "float32" if read_model_config(config.model).dtype == "float32" else "bfloat16"
    began_s = perf_counter()
    model = load_model(config.model, dtype=dtype, quantization=config.quantization, progress=not options.quiet)
    read_s = perf_counter() - began_s
    texts = None if config.tokenizer is None else Path(config.tokenizer)
    num_bytes = write_converted(options.out, model, source=Path(config.model), texts=texts, progress=not options.quiet)
    write_s = perf_counter() - began_s - read_s
    if not options.quiet:
        held, rates = config.quantization or dtype, [num_bytes / 1e9 / max(each, 1e-9) for each in (read_s, write_s)]
        say(
            f"{options.out}: {shown_name(config.model)} in {held}, {num_bytes / 1e9:.2f} GB; "
            f"read at {rates[0]:.2f} GB/s, written at {rates[1]:.2f}"
        )
    return 0
