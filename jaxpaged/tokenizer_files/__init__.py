"""The files of tokens that a model folder may hold, each read into a `tokenizers.Tokenizer`. [host half: no jax]

tokenizer.json comes first; older folders have one of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.fast import read_fast
from jaxpaged.tokenizer_files.folder import read_json
from jaxpaged.tokenizer_files.sentence_piece_file import read_sentence_piece
from jaxpaged.tokenizer_files.source import Source
from jaxpaged.tokenizer_files.tekken import FILE as TEKKEN
from jaxpaged.tokenizer_files.tekken import read_tekken
from jaxpaged.tokenizer_files.tiktoken import is_tiktoken, read_tiktoken
from jaxpaged.tokenizer_files.vocab_merges import MERGES, VOCAB, read_vocab_merges

FAST = "tokenizer.json"
_MODELS = ("tokenizer.model", "spiece.model", "qwen.tiktoken")


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a file that `read_source` would read."""
    alone = any((folder / name).is_file() for name in (FAST, TEKKEN, *_MODELS))
    return alone or all((folder / name).is_file() for name in (VOCAB, MERGES))


def read_source(folder: Path, *, config: Mapping[str, Any], declared: Mapping[int, str]) -> Source:
    """The tokens of a folder. config: tokenizer_config.json; declared: the tokens that it adds, by id.

    Raises TokenizerError naming the file that is missing or damaged, or the package that reading it needs.
    """
    if (path := folder / FAST).is_file():
        return Source(backend=read_fast(path), is_whole=True)
    if (path := folder / TEKKEN).is_file():
        return read_tekken(path)
    model_type = read_json(folder / "config.json").get("model_type")
    for name in _MODELS:
        if (path := folder / name).is_file():
            if is_tiktoken(path):
                return read_tiktoken(path, model_type=model_type, declared=declared)
            return read_sentence_piece(path, config=config, declared=declared)
    if has_tokenizer(folder):
        return read_vocab_merges(folder, config=config, model_type=model_type)
    raise TokenizerError(
        name="tokenizer",
        value=str(folder / FAST),
        limit=f"there is no such file, nor {TEKKEN}, {', '.join(_MODELS)}, or {VOCAB} with {MERGES}",
        fix="Put the model's tokenizer beside its weights, or name another folder with `tokenizer`",
    )
