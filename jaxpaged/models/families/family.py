"""What a family of models is: how its config is read, and how its checkpoints name their tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxpaged.models.config import ModelConfig
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """read: a config and the architecture's name -> the model; every key that changes a logit must be read or refused.
    rules: the checkpoint's tensors, for the model that was read. prefix: what a checkpoint of the bare model may leave
    out of their names. ignorable: patterns of tensors that hold nothing of their own (masks, frequencies).
    """

    read: Callable[[HFConfig, str], ModelConfig]
    rules: Callable[[ModelConfig], Rules]
    prefix: str = "model."
    ignorable: tuple[str, ...] = ()
