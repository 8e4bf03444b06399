"""A model folder's generation_config.json, and what was said to count before it. [host half: no jax]"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxpaged.errors import ConfigError, ModelError, ParameterError
from jaxpaged.json_option import option_object
from jaxpaged.request import SamplingParams
from jaxpaged.weights.folder import read_json

FILE = "generation_config.json"
FROM_MODEL, FROM_API = "auto", "vllm"
"""Words of `generation_config` that are no folder: the file of the model's folder, and no file at all."""
OVERRIDE = "override_generation_config"
FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "repetition_penalty": "repetition_penalty",
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "max_new_tokens": "max_tokens",
    }
)
"""Keys that are read, each with its field of `SamplingParams`."""
_HARMLESS_WORDS = """
    transformers_version _from_model_config _commit_hash bos_token_id eos_token_id pad_token_id decoder_start_token_id
    use_cache cache_implementation cache_config max_cache_len prefill_chunk_size compile_config disable_compile
    continuous_batching_config low_memory return_legacy_cache return_dict_in_generate output_attentions
    output_hidden_states output_scores output_logits prompt_lookup_num_tokens max_matching_ngram_size
    num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold assistant_early_exit
    assistant_lookbehind assistant_ensemble_weight target_lookbehind is_assistant speculation_type use_mtp
    renormalize_logits early_stopping length_penalty diversity_penalty num_beam_groups
"""
_HARMLESS = frozenset(_HARMLESS_WORDS.split())
"""Keys that change no answer of one beam; the end tokens are the tokenizer's to read."""
_NEUTRAL: Mapping[str, object] = MappingProxyType(
    {
        **{"do_sample": True, "num_beams": 1, "num_return_sequences": 1, "typical_p": 1.0, "guidance_scale": 1.0},
        **{"no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0},
        **{"penalty_alpha": 0.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "min_length": 0, "min_new_tokens": 0},
        **{"max_length": 20, "presence_penalty": 0.0, "frequency_penalty": 0.0},
    }
)
"""Of other keys, the value that asks for nothing (of max_length the one that transformers writes for none)."""
_SHOWN = 60
"""Characters of a value in a warning."""


def read_generation_config(folder: str | Path, *, required: bool = False) -> dict[str, Any]:
    """The object in a folder's generation_config.json; {} where there is no such file and none is required.

    Raises ConfigError where one is required, ModelError for a file that cannot be read.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        if required:
            fix = f"Give the folder that holds {FILE}, or {FROM_MODEL} for the model's own, or {FROM_API} for none"
            raise ConfigError(name="generation_config", value=str(folder), limit=f"it has no {FILE}", fix=fix)
        return {}
    return read_json(path, fix="Correct it, or remove it")


def check_generation_config(value: object) -> str:
    """The option `generation_config` as a text; nothing is opened. Raises ConfigError."""
    text = str(value) if isinstance(value, Path) else value
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        limit = f"it must be {FROM_MODEL}, {FROM_API} or a folder"
        raise ConfigError(name="generation_config", value=value, limit=limit)
    return text


def check_override(value: object) -> dict[str, int | float | None]:
    """The option `override_generation_config`, an object or its JSON text, with every value as it will be used.

    null stands for the API's own default. Raises ConfigError naming the key.
    """
    asked = option_object(OVERRIDE, value, fix='As in {"temperature": 0.5}')
    checked: dict[str, int | float | None] = {}
    for key, given in asked.items():
        if key not in FIELDS:
            meant = {**dict.fromkeys(FIELDS), "max_tokens": "max_new_tokens"}
            near = difflib.get_close_matches(str(key), meant, n=1, cutoff=0.7)
            fix = f"Did you mean {meant[near[0]] or near[0]}?" if near else "Leave it out, or say it in the requests"
            limit = f"there is no such default; there are {', '.join(FIELDS)}"
            raise ConfigError(name=f"{OVERRIDE}.{str(key)[:64]}", value=given, limit=limit, fix=fix)
        try:
            checked[key] = None if given is None else _value(FIELDS[key], given)
        except ParameterError as error:
            limit, fix = error.limit, error.fix
            raise ConfigError(name=f"{OVERRIDE}.{key}", value=given, limit=limit, fix=fix) from None
    return checked


def file_value(key: str, value: object) -> int | float:
    """A value of the file, as it will be used. Raises ModelError naming the key."""
    try:
        return _value(FIELDS[key], value)
    except ParameterError as error:
        fix = f"Correct it, say another in {OVERRIDE}, or leave the file out with generation_config={FROM_API}"
        raise ModelError(name=f"{key} of {FILE}", value=value, limit=error.limit, fix=fix) from None


def not_implemented(told: Mapping[str, Any]) -> tuple[str, ...]:
    """The entries of a file that would change answers and do not here, as KEY=VALUE."""
    return tuple(
        f"{key}={_shown(value)}"
        for key, value in told.items()
        if key not in FIELDS and key not in _HARMLESS and not _asks_for_nothing(key, value)
    )


def _value(name: str, value: object) -> int | float:
    """As `SamplingParams` holds it. Raises ParameterError."""
    one: dict[str, Any] = {name: value}
    return getattr(SamplingParams(**one), name)


def _asks_for_nothing(key: str, value: object) -> bool:
    if value is None:
        return True
    return value == _NEUTRAL[key] if key in _NEUTRAL else value is False or value in ("", [], {})


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
