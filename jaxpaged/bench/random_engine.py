"""An engine around a named shape with random weights: no download, no tokenizer, token ids alone."""

from __future__ import annotations

from dataclasses import replace

from jaxpaged.bench.shapes import shape_config
from jaxpaged.config import EngineConfig
from jaxpaged.device import claim_share, gib, this_device
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError
from jaxpaged.memory import resolve_combination, resolve_dtype
from jaxpaged.models.decoder import build
from jaxpaged.models.families import read_config
from jaxpaged.weights.random import random_model


def random_engine(options: EngineConfig, shape: str, *, progress: bool = False) -> LLMEngine:
    """The engine of a named shape or a config.json; `options.seed` seeds its weights, too.

    Raises ConfigError for an unknown shape, for weights larger than the device's free memory and for options that
    cannot be, ModelError for a config that is no model.
    """
    if options.model != EngineConfig().model:
        raise ConfigError(
            name="--random-weights",
            value=shape,
            limit=f"--model {options.model} names another model",
            fix="Give one of the two",
        )
    claim_share(options.memory_share)
    config, device = shape_config(shape), this_device()
    model = read_config(config, context=options.max_model_len)
    dtype, _ = resolve_dtype(options.dtype, model.dtype, device)
    needed = build(model, dtype=dtype, quantization=options.quantization).nbytes
    held_as = options.quantization or dtype
    if needed > device.free_bytes:
        raise ConfigError(
            name="--random-weights",
            value=shape,
            limit=f"its weights take {gib(needed)} in {held_as}, {device.name} has {gib(device.free_bytes)} free",
            fix="Use a smaller shape, or --dtype bfloat16" if held_as == "float32" else "Use a smaller shape",
        )
    choice = resolve_combination(options, model, device, dtype=dtype)
    form = {"dtype": dtype, "packed": choice.packed, "quantization": choice.quantization}
    weights = random_model(config, seed=options.seed, **form, context=options.max_model_len, progress=progress)
    return LLMEngine(replace(options, model=shape), model=weights, progress=progress)
