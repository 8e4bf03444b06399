"""Reads a Hugging Face config.json key by key and knows which keys nobody read.

A key is handled exactly when a family asked for it; what is left must be harmless or at its neutral value.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from jaxpaged.errors import ModelError, UnsupportedModelError

_TRAINING_AND_BOOKKEEPING = """
    _name_or_path architectures model_type transformers_version torch_dtype dtype use_cache initializer_range
    attention_dropout hidden_dropout embd_pdrop attn_pdrop resid_pdrop tokenizer_class keys_to_ignore_at_inference
    id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params output_attentions
    output_hidden_states return_dict return_dict_in_generate torchscript use_bfloat16 tf_legacy_loss
    _attn_implementation _attn_implementation_autoset attn_implementation _flash_attn_2_enabled unsloth_fixed
    unsloth_version transformers.js_config is_llama_config pretraining_tp chunk_size_feed_forward
    gradient_checkpointing router_aux_loss_coef router_jitter_noise output_router_logits cache_implementation
"""
_TOKENS_AND_GENERATION = """
    bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id forced_bos_token_id
    forced_eos_token_id max_length max_new_tokens min_length min_new_tokens do_sample early_stopping num_beams
    num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens prefix
    max_sequence_length cache_implementation
"""
HARMLESS = frozenset(f"{_TRAINING_AND_BOOKKEEPING} {_TOKENS_AND_GENERATION}".split())
"""Keys of any config that change no logit. Tokens and generation are the tokenizer's and the request's."""

_MISSING = object()


class HFConfig:
    """A config (or one of its sections) and the keys read so far. Errors name the key, its value and the fix."""

    def __init__(
        self,
        values: Mapping[str, object],
        *,
        section: str = "",
        context: int | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """context: the longest context that will be asked for, None for the model's own. aliases: what some keys are
        called in this config."""
        self._values = values
        self._section = section
        self._read: set[str] = set()
        self._aliases = aliases or {}
        self.context = context

    def renamed(self, aliases: Mapping[str, str]) -> HFConfig:
        """The same config under other names of its keys: what is asked for as a key of `aliases` is its value here."""
        other = HFConfig(self._values, section=self._section, context=self.context, aliases=aliases)
        other._read = self._read
        return other

    def name_of(self, key: str) -> str:
        key = self._aliases.get(key, key)
        return f"{self._section}.{key}" if self._section else key

    def __contains__(self, key: str) -> bool:
        return self._aliases.get(key, key) in self._values

    def get(self, key: str) -> object:
        """The raw value, None where it is missing."""
        key = self._aliases.get(key, key)
        self._read.add(key)
        return self._values.get(key)

    def integer(self, key: str, *, default: object = _MISSING, minimum: int = 1, maximum: int = 2**31 - 1) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.refusal(key, value, f"it must be a whole number of at least {minimum}")
        if value > maximum:
            raise self.refusal(key, value, f"it must be at most {maximum}")
        return value

    def number(self, key: str, *, default: object = _MISSING, above: float = 0.0) -> float:
        value = self._value(key, default)
        number = as_float(value)
        if number is None or number <= above:
            raise self.refusal(key, value, f"it must be a number above {above:g}")
        return number

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, value, "it must be true or false")
        return value

    def choice(self, key: str, choices: Collection[str], *, default: object = _MISSING) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.refusal(key, value, "it must be a string")
        if value not in choices:
            raise self.unsupported(key, value, f"implemented are {', '.join(sorted(choices))}")
        return value

    def optional_integer(self, key: str) -> int | None:
        return None if self.get(key) is None else self.integer(key)

    def optional_number(self, key: str) -> float | None:
        return None if self.get(key) is None else self.number(key)

    def section(self, key: str) -> HFConfig | None:
        """A nested object; None where it is missing, null or empty."""
        value = self.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.refusal(key, value, "it must be an object")
        return HFConfig(value, section=self.name_of(key)) if value else None

    def require_neutral(self, keys: Iterable[str], value: object) -> None:
        """Refuse any of these keys that is there with something else than null or its neutral `value`."""
        for key in keys:
            if (found := self.get(key)) is not None and found != value:
                raise self.unsupported(key, found, f"only {value!r} is implemented")

    def ignore(self, *keys: str) -> None:
        """Count keys as read that change no logit in this family."""
        self._read.update(keys)

    def refuse_unread(self, harmless: Collection[str] = frozenset()) -> None:
        """Raise UnsupportedModelError naming every key that is neither read, nor harmless, nor null, false or empty."""
        left = {
            self.name_of(key): value
            for key, value in self._values.items()
            if key not in self._read and key not in harmless and not _is_nothing(value)
        }
        if left:
            raise UnsupportedModelError(
                name=", ".join(left),
                value=next(iter(left.values())) if len(left) == 1 else left,
                limit="not implemented, and it may change what the model computes",
                fix="Remove it from config.json if you know that it changes nothing",
            )

    def refusal(self, key: str, value: object, limit: str, fix: str = "Correct config.json") -> ModelError:
        return ModelError(name=self.name_of(key), value=value, limit=limit, fix=fix)

    def unsupported(self, key: str, value: object, limit: str) -> UnsupportedModelError:
        return UnsupportedModelError(name=self.name_of(key), value=value, limit=limit)

    def _value(self, key: str, default: object) -> object:
        value = self.get(key)
        if value is None:
            if default is _MISSING:
                state = "it is null" if key in self else "it is missing"
                raise self.refusal(
                    key, None, f"{state}, and the model cannot be built without", "Add it to config.json"
                )
            return default
        return value


def as_float(value: object) -> float | None:
    """A number of JSON; None where it is none, or more than a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_nothing(value: object) -> bool:
    return value is None or value is False or value in ("", [], {})
