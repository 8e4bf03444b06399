"""A draft model in memory, and how it goes with the model that it drafts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxpaged.combinations import Choice
from jaxpaged.config import EngineConfig, ResolvedConfig
from jaxpaged.device import Device
from jaxpaged.errors import ConfigError, TokenizerError
from jaxpaged.memory import DraftPool, resolve_combination
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import build
from jaxpaged.progress import Progress
from jaxpaged.speculation.config import OPTION
from jaxpaged.tokenize import Tokenizer
from jaxpaged.weights.folder import is_gguf
from jaxpaged.weights.gguf_text import text_folder
from jaxpaged.weights.load import LoadedModel, load_model, read_model_config

_NAME = f"{OPTION}.model"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDraft:
    """A draft model, all of whose layers are one KV group. group: of the served model's groups, the one in whose blocks
    it keeps its tokens, too. longest: tokens of a context that these have before the first is given up; None: of any.
    pool: what it keeps in a block."""

    name: str
    model: LoadedModel
    choice: Choice
    group: int
    longest: int | None
    pool: DraftPool

    @property
    def weight_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in self.model.leaves)

    def resolved(self, config: ResolvedConfig) -> ResolvedConfig:
        """The settings of its programs. config: those of the served model."""
        return replace(
            config,
            attention_backend=self.choice.backend,
            kv_cache_dtype=self.choice.kv_cache_dtype,
            quantization=None,
            speculation=None,
            bundle=None,
        )


def load_draft(
    asked: EngineConfig,
    served: ModelConfig,
    choice: Choice,
    device: Device,
    *,
    dtype: str,
    tokenizer: Tokenizer | None,
    progress: Progress | bool = False,
) -> LoadedDraft | None:
    """The draft model that `asked` names; None where it names none. served, choice, tokenizer: of the other model.

    Raises ConfigError where the two do not go together, and what loading a model raises.
    """
    speculation = asked.speculation
    if speculation is None or not speculation.model:
        return None
    folder = speculation.model
    config = read_model_config(folder, context=asked.max_model_len)
    group, longest = widest_group(served.kv_windows())
    if tokenizer is not None:
        _check_tokens(folder, tokenizer)
    elif config.vocab != served.vocab:
        limit = f"its vocabulary has {config.vocab:,} tokens, that of the served model {served.vocab:,}"
        raise ConfigError(name=_NAME, value=folder, limit=limit, fix="Name a model of the same family")
    own = draft_choice(asked, config, choice, device, dtype=dtype)
    model = load_model(folder, dtype=dtype, packed=own.packed, context=asked.max_model_len, progress=progress)
    model = in_one_group(model, packed=own.packed)
    pool = DraftPool.of(model.config, device, own)
    return LoadedDraft(name=folder, model=model, choice=own, group=group, longest=longest, pool=pool)


def draft_choice(asked: EngineConfig, config: ModelConfig, served: Choice, device: Device, *, dtype: str) -> Choice:
    """What the options come to for a draft model, not quantised, in blocks of as many tokens as the served model's."""
    return resolve_combination(
        replace(asked, quantization=None, block_size=served.block_size), config, device, dtype=dtype
    )


def widest_group(windows: Sequence[int | None]) -> tuple[int, int | None]:
    """Of KV groups the one whose blocks are kept the longest, and its window. windows: of each; None: no bound."""
    group = max(range(len(windows)), key=lambda number: _width(windows[number]))
    return group, windows[group]


def in_one_group(model: LoadedModel, *, packed: bool) -> LoadedModel:
    """The same model with all layers in one KV group: a block of the served model has room for one.

    A window then bounds what its layers look at, not what is kept.
    """
    config = replace(model.config, one_kv_group=True)
    graph = build(config, dtype=model.dtype, packed=packed, quantization=model.quantization)
    return replace(model, config=config, graphdef=graph)


def _width(window: int | None) -> float:
    return float("inf") if window is None else window


def _check_tokens(folder: str, tokenizer: Tokenizer) -> None:
    """Raise ConfigError where a token's id means another text to the draft model, as far as its folder says."""
    try:
        theirs = Tokenizer.load(text_folder(Path(folder)) if is_gguf(Path(folder)) else folder)
    except TokenizerError:
        return
    ours = {number: text for text, number in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    for text, number in theirs.backend.get_vocab(with_added_tokens=True).items():
        if ours.get(number, text) != text:
            raise ConfigError(
                name=_NAME,
                value=folder,
                limit=f"its token {number} is {text!r}, that of the served model {ours[number]!r}: their vocabularies "
                "differ",
                fix="Name a model of the same family",
            )
