"""All families: from a Hugging Face architecture to values in `ModelConfig`, and to the names of its tensors.

A new family is an entry in one of these files (docs/NEW_FAMILY.md); the decoder learns nothing of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jaxpaged.errors import UnsupportedModelError
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.families import (
    cohere,
    exaone,
    falcon,
    gemma,
    glm,
    gpt,
    gpt_oss,
    granite,
    granitemoe,
    llama,
    mixtral,
    olmo,
    olmoe,
    opt,
    phi,
    phi3,
    qwen,
    qwen_moe,
    smollm,
    stablelm,
    starcoder2,
)
from jaxpaged.models.families.family import Family
from jaxpaged.models.hf_config import HARMLESS, HFConfig

_KINS = (
    cohere,
    exaone,
    falcon,
    gemma,
    glm,
    gpt,
    gpt_oss,
    granite,
    granitemoe,
    llama,
    mixtral,
    olmo,
    olmoe,
    opt,
    phi,
    phi3,
    qwen,
    qwen_moe,
    smollm,
    stablelm,
    starcoder2,
)
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {name: family for kin in _KINS for name, family in kin.FAMILIES.items()}
)
"""By the name in a config's `architectures`."""


def read_config(config: Mapping[str, object], *, context: int | None = None) -> ModelConfig:
    """The model that a parsed config.json describes, written by transformers 4 or 5.

    context: the longest context that will be asked for, where it is known (some rotary embeddings depend on it).
    Raises UnsupportedModelError for an architecture, a value or a key that is not implemented, ModelError for a value
    that cannot be; both name the key.
    """
    reader = HFConfig(config, context=context)
    names = reader.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not isinstance(name, str) or name not in FAMILIES:
        raise UnsupportedModelError(
            name="architectures",
            value=name,
            limit=f"implemented are {', '.join(sorted(FAMILIES))}",
            fix="Use a model of one of these architectures",
        )
    model = FAMILIES[name].read(reader, name)
    reader.refuse_unread(HARMLESS)
    return model


__all__ = ["FAMILIES", "Family", "read_config"]
