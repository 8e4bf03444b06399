"""One random configuration of one family: what `folder.py` writes as a model folder and all tests of a family read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ABSENT = object()
"""As a value of `Case.keys`: config.json has no such key."""

SIZES: MappingProxyType[str, Any] = MappingProxyType(
    {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 211,
        "max_position_embeddings": 512,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
)
"""Of the least model that shows something, in the words that most families use. All cases share the vocabulary:
programs that depend on nothing else are then compiled once for all."""

LONGEST = 264
"""Tokens of the longest context of the tests. A window, or the context of a rope's training, is to be below 132, so
that prompts and answers both go past it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """name: of the case, unique in the zoo. architecture: the class in transformers, as config.json names it.

    config: keyword arguments of its config class. old_style: config.json as transformers 4 wrote it, see
    `folder.old_style`. keys: what config.json says beside or instead of that, ABSENT for what it leaves out.
    features: what of the family this case shows, in a few words, for docs/FAMILIES.md. unseen: regular expressions of
    parameters that cannot change a logit here, and why.
    """

    name: str
    architecture: str
    config: Mapping[str, Any]
    old_style: bool = False
    keys: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)

    @property
    def vocab(self) -> int:
        """V."""
        return self.config["vocab_size"]

    @property
    def has_experts(self) -> bool:
        """Whether tokens are sent to experts."""
        return any("expert" in key for key in self.config)
