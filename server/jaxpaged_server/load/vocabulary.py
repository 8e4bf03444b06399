"""What a load generator knows of the model's tokens: which ids it may send, and how many tokens a text has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpaged.errors import JaxPagedError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer
from jaxpaged.tokenizer_files import has_tokenizer
from jaxpaged_server.settings import BUNDLED_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The ids that random prompts are made of; the tokenizer where it is at hand; `source` says where it is from."""

    ids: tuple[int, ...]
    source: str
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        assert self.ids, "a vocabulary without ids"

    def count(self, text: str) -> int:
        """Tokens of a prompt, 0 where that is not known."""
        return 0 if self.tokenizer is None else len(self.tokenizer.encode(text))


def vocabulary_of_folder(folder: Path) -> Vocabulary:
    """Of a model folder, special tokens left out. Raises TokenizerError where it has none that can be read."""
    tokenizer = Tokenizer.load(folder)
    ids = _plain_ids(tokenizer.vocab_size, tokenizer.special_ids | set(tokenizer.eos_ids))
    return Vocabulary(ids=ids, source=str(folder), tokenizer=tokenizer)


def find_vocabulary(model: Mapping[str, Any], tokenizer_info: Mapping[str, Any] | None) -> Vocabulary | None:
    """Of a served model, without being told a folder; None where there is no way to know.

    model: its entry in /v1/models. A name or "root" that is a folder here with a tokenizer in it is read; then the
    bundled model is recognised; then `tokenizer_info` (the reply of /tokenizer_info) may tell the size of the
    vocabulary, which is enough to send token ids.
    """
    for name in (model.get("root"), model.get("id")):
        if isinstance(name, str) and (found := _folder_here(name)) is not None:
            return found
    if model.get("owned_by") == "jaxpaged" and _names(model) & {TINY_MODEL.name, BUNDLED_NAME}:
        return vocabulary_of_folder(TINY_MODEL)
    size = (tokenizer_info or {}).get("vocab_size")
    if isinstance(size, int) and size > 0:
        return Vocabulary(ids=_plain_ids(size, _special_ids(tokenizer_info or {})), source="/tokenizer_info")
    return None


def _plain_ids(size: int, special: Collection[int]) -> tuple[int, ...]:
    """All but the special ones: those may end an answer, or be refused in a prompt."""
    return tuple(i for i in range(size) if i not in special) or tuple(range(size))


def _folder_here(name: str) -> Vocabulary | None:
    folder = Path(name)
    try:
        return vocabulary_of_folder(folder) if has_tokenizer(folder) else None
    except (JaxPagedError, OSError, ValueError):  # one that is not asked for must not end the run
        return None


def _names(model: Mapping[str, Any]) -> set[str]:
    """The last part of each name: "jaxpaged/tiny" is served as tiny."""
    return {name.rsplit("/", 1)[-1] for key in ("id", "root") if isinstance(name := model.get(key), str)}


def _special_ids(tokenizer_info: Mapping[str, Any]) -> set[int]:
    """Ids of a tokenizer_config.json's added tokens that are marked special."""
    added = tokenizer_info.get("added_tokens_decoder")
    if not isinstance(added, Mapping):
        return set()
    return {int(key) for key, token in added.items() if isinstance(token, Mapping) and token.get("special")}
