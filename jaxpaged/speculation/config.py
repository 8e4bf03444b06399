"""What a user asks of speculation, by vLLM's names. [host half: no jax]"""

from __future__ import annotations

import difflib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from jaxpaged.checked_numbers import number, whole_number
from jaxpaged.errors import ConfigError, ParameterError
from jaxpaged.json_option import option_object

OPTION = "speculative_config"
METHODS = ("ngram", "suffix", "draft_model")
MOST_DRAFTED = 64
"""Tokens that may be drafted of one request in one step."""
_MOST_MATCHED = 256  # tokens of a match that may be looked at
_MOST_ANSWERS = 1_000_000
_COMMON = ("method", "num_speculative_tokens")
_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ngram": (*_COMMON, "prompt_lookup_min", "prompt_lookup_max"),
        "suffix": (
            *_COMMON,
            "suffix_decoding_max_tree_depth",
            "suffix_decoding_max_cached_requests",
            "suffix_decoding_max_spec_factor",
            "suffix_decoding_min_token_prob",
        ),
        "draft_model": (*_COMMON, "model"),
    }
)
_LOOKUP = 5  # tokens of an n-gram where neither length is given: vLLM's default
_FIX = 'As in {"method": "ngram", "num_speculative_tokens": 4} or {"model": "FOLDER", "num_speculative_tokens": 4}'


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationConfig:
    """How drafts are made; names, defaults and meanings are vLLM's. Values are checked by `speculation_config`.

    num_speculative_tokens: drafted of one request in a step at most. prompt_lookup_min, prompt_lookup_max: tokens of
    the shortest and the longest n-gram that is looked up. suffix_decoding_max_tree_depth: tokens of a match that count
    at most. suffix_decoding_max_cached_requests: finished answers that are looked into beside the request itself.
    suffix_decoding_max_spec_factor: drafted tokens per matched token. suffix_decoding_min_token_prob: a token less
    likely to be drawn is not drafted. model: the draft model, as `EngineConfig.model` names one.
    """

    method: str
    num_speculative_tokens: int
    prompt_lookup_min: int = _LOOKUP
    prompt_lookup_max: int = _LOOKUP
    suffix_decoding_max_tree_depth: int = 24
    suffix_decoding_max_cached_requests: int = 10_000
    suffix_decoding_max_spec_factor: float = 1.0
    suffix_decoding_min_token_prob: float = 0.1
    model: str = ""

    def asked(self) -> dict[str, Any]:
        """The option again, with every default of its method filled in."""
        return {key: value for key, value in asdict(self).items() if key in _KEYS[self.method]}


def speculation_config(value: object, *, own_draft: str = "") -> SpeculationConfig | None:
    """The option `speculative_config`, an object or its JSON text. None where nothing is asked for. own_draft: the
    draft model that goes with the served one, where there is one.

    Raises ConfigError naming the key, its value and the limit.
    """
    asked = option_object(OPTION, value, fix=_FIX)
    if not asked:
        return None
    method = asked.get("method")
    if method is None and asked.get("model") is not None:
        method = "draft_model"
    if method not in METHODS:
        limit = f"it must be {', '.join(METHODS[:-1])} or {METHODS[-1]}, which goes without saying beside a model"
        raise ConfigError(name=f"{OPTION}.method", value=method, limit=limit)
    for key, given in asked.items():
        if key not in _KEYS[method]:
            near = difflib.get_close_matches(str(key), _KEYS[method], n=1, cutoff=0.7)
            limit = f"method {method} has no such key; it has {', '.join(_KEYS[method])}"
            fix = f"Did you mean {near[0]}?" if near else "Leave it out"
            raise ConfigError(name=f"{OPTION}.{str(key)[:64]}", value=given, limit=limit, fix=fix)
    if method == "draft_model":
        return _draft_model(asked, own_draft)
    return _ngram(asked) if method == "ngram" else _suffix(asked)


def _ngram(value: Mapping[str, Any]) -> SpeculationConfig:
    shortest = _integer(value, "prompt_lookup_min", None, 1, _MOST_MATCHED)
    longest = _integer(value, "prompt_lookup_max", None, 1, _MOST_MATCHED)
    if shortest is None:
        shortest = _LOOKUP if longest is None else longest
    longest = shortest if longest is None else longest
    if shortest > longest:
        raise ConfigError(
            name=f"{OPTION}.prompt_lookup_min", value=shortest, limit=f"it may not exceed prompt_lookup_max={longest}"
        )
    count = _count(value, "ngram")
    return SpeculationConfig(
        method="ngram", num_speculative_tokens=count, prompt_lookup_min=shortest, prompt_lookup_max=longest
    )


def _draft_model(value: Mapping[str, Any], own_draft: str) -> SpeculationConfig:
    model = own_draft if value.get("model") is None else value["model"]
    if not isinstance(model, str) or not model:
        raise ConfigError(
            name=f"{OPTION}.model",
            value=model,
            limit="method draft_model needs it: a small model with the vocabulary of the one that is served",
            fix="Name its folder, or its name on the hub",
        )
    return SpeculationConfig(method="draft_model", num_speculative_tokens=_count(value, "draft_model"), model=model)


def _count(value: Mapping[str, Any], method: str) -> int:
    """How many tokens to draft, where the method has no number of its own."""
    count = _integer(value, "num_speculative_tokens", None, 1, MOST_DRAFTED)
    if count is None:
        raise ConfigError(
            name=f"{OPTION}.num_speculative_tokens",
            value=None,
            limit=f"method {method} needs it: how many tokens to draft at most",
        )
    return count


def _suffix(value: Mapping[str, Any]) -> SpeculationConfig:
    depth = _integer(value, "suffix_decoding_max_tree_depth", 24, 1, _MOST_MATCHED)
    assert depth is not None
    count = _integer(value, "num_speculative_tokens", min(depth, MOST_DRAFTED), 1, MOST_DRAFTED)
    answers = _integer(value, "suffix_decoding_max_cached_requests", 10_000, 0, _MOST_ANSWERS)
    assert count is not None
    assert answers is not None
    return SpeculationConfig(
        method="suffix",
        num_speculative_tokens=count,
        suffix_decoding_max_tree_depth=depth,
        suffix_decoding_max_cached_requests=answers,
        suffix_decoding_max_spec_factor=_number(value, "suffix_decoding_max_spec_factor", 1.0, 0.0, 64.0),
        suffix_decoding_min_token_prob=_number(value, "suffix_decoding_min_token_prob", 0.1, 0.0, 1.0),
    )


def _integer(value: Mapping[str, Any], key: str, default: int | None, low: int, high: int) -> int | None:
    given = value.get(key)
    if given is None:
        return default
    with _as_option():
        return whole_number(f"{OPTION}.{key}", given, low, high)


def _number(value: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    given = value.get(key)
    if given is None:
        return default
    with _as_option():
        return number(f"{OPTION}.{key}", given, low, high)


@contextmanager
def _as_option() -> Generator[None, None, None]:
    """What is refused within is the engine's option, not a request's."""
    try:
        yield
    except ParameterError as error:
        raise ConfigError(name=error.name, value=error.value, limit=error.limit, fix=error.fix) from None
