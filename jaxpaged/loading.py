"""Weights, settings and programs of an engine, in the order in which one follows from the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxpaged.bundle import Bundle
from jaxpaged.config import EngineConfig
from jaxpaged.device import Device, this_device
from jaxpaged.loaded_draft import LoadedDraft, load_draft
from jaxpaged.memory import blocks_follow_step, resolve, resolve_combination, resolve_dtype
from jaxpaged.models.config import ModelConfig
from jaxpaged.pool_fit import fitted
from jaxpaged.programs import Programs
from jaxpaged.progress import Progress
from jaxpaged.tokenize import Tokenizer
from jaxpaged.warmup import use_compile_cache
from jaxpaged.weights.load import LoadedModel, load_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """programs: of the served model, with its settings; nothing is compiled but what these follow from. device: with
    the weights loaded. weight_bytes: of all models. cache_folder: of compiled programs."""

    programs: Programs
    draft: LoadedDraft | None
    device: Device
    weight_bytes: int
    dtype_reason: str
    cache_folder: Path | None


def load(
    asked: EngineConfig,
    model: LoadedModel | None,
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    device: Device,
    *,
    bundle: Bundle | None,
    progress: Progress,
) -> Loaded:
    """Load what `asked` names and make every choice that it left open. model: taken as it is; None: loaded. config: of
    the model. tokenizer: None where the engine speaks token ids alone.

    Raises what loading a model raises, and ConfigError for options that do not go together.
    """
    dtype, why = resolve_dtype(asked.dtype, config.dtype, device)
    if model is not None:
        dtype, why = model.dtype, "the given model's"
        asked = asked.quantised_as(model.quantization)
    choice = resolve_combination(asked, config, device, dtype=dtype)  # before minutes of loading
    draft = load_draft(asked, config, choice, device, dtype=dtype, tokenizer=tokenizer, progress=progress)
    if model is None:
        form = {"dtype": dtype, "packed": choice.packed, "quantization": choice.quantization}
        model = load_model(asked.model, **form, context=asked.max_model_len, progress=progress)
        device = this_device()  # what is free now
    weight_bytes = sum(leaf.nbytes for leaf in model.leaves) + (draft.weight_bytes if draft else 0)
    pool = draft.pool if draft else None
    resolved = resolve(asked, config, device, dtype=dtype, weight_bytes=weight_bytes, draft=pool)
    if bundle is not None:
        resolved, why = bundle.explain(resolved), "the bundle's"
    cache_folder = use_compile_cache(resolved.compile_cache)
    programs = Programs(model, resolved, bundle=bundle)
    if bundle is None and resolved.warmup and blocks_follow_step(asked, device):
        with progress.track("compiling", total=0, unit="program"):  # one, but who counts begins with the others
            programs = fitted(asked, programs, device, weight_bytes=weight_bytes, draft=pool)
    return Loaded(
        programs=programs,
        draft=draft,
        device=device,
        weight_bytes=weight_bytes,
        dtype_reason=why,
        cache_folder=cache_folder,
    )
