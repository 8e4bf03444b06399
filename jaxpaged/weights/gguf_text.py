"""The tokenizer in a GGUF file's metadata, as the files that a tokenizer's folder has. [no jax]

Byte-level BPE whose split of words is known by name alone: a name that is not known here would split words otherwise,
silently, so the tokenizer must then be named.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpaged.config import default_compile_cache
from jaxpaged.errors import TokenizerError
from jaxpaged.weights.gguf_file import GGUFFile

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS: Mapping[str, str] = {
    "llama-bpe": rf"{_CONTRACTIONS}\p{{N}}{{1,3}}{_REST}",
    "qwen2": rf"{_CONTRACTIONS}\p{{N}}{_REST}",
}
"""How words are split, by `tokenizer.ggml.pre`: the expressions of Llama 3's and Qwen 2's own tokenizer.json."""
_CONTROL, _USER_DEFINED = 3, 4
_NAMED = ("bos", "eos", "unknown", "padding")
_HF = {"unknown": "unk", "padding": "pad"}


def text_folder(path: Path, *, cache: Path | None = None) -> Path:
    """A folder with tokenizer.json and its companions, made of a GGUF file's metadata; kept in the user's cache.

    Raises ModelError for a file that cannot be read, TokenizerError for a tokenizer that cannot be made of it.
    """
    files = _files(GGUFFile(path))
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in files.items()}
    digest = hashlib.sha256("\0".join(texts.values()).encode()).hexdigest()[:16]
    folder = (cache or default_compile_cache().parent / "gguf") / digest
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, text in texts.items():
            (part / name).write_text(text, encoding="utf-8")
        try:
            os.replace(part, folder)
        except OSError:  # somebody else was first
            shutil.rmtree(part)
    except OSError as error:
        raise TokenizerError(
            name="tokenizer", value=str(path), limit=f"{folder} cannot be written: {error.strerror}", fix=_FIX
        ) from error
    return folder


_FIX = "Give --tokenizer: the folder of the model it was made of, or its name on the hub"


def _files(file: GGUFFile) -> dict[str, Any]:
    """Contents of the folder by name. Raises TokenizerError."""
    kind, words = file.get("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre")
    tokens, merges = file.get("tokenizer.ggml.tokens"), file.get("tokenizer.ggml.merges")
    if kind != "gpt2" or words not in _WORDS or not tokens or not merges:
        limit = f"of the tokenizers in GGUF files gpt2 with {' or '.join(_WORDS)} can be read"
        raise TokenizerError(name=f"tokenizer of {file.path.name}", value=f"{kind}, {words}", limit=limit, fix=_FIX)
    types = file.get("tokenizer.ggml.token_type") or []
    named = {
        name: tokens[index]
        for name in _NAMED
        if isinstance(index := file.get(f"tokenizer.ggml.{name}_token_id"), int) and 0 <= index < len(tokens)
    }
    adds_bos = file.get("tokenizer.ggml.add_bos_token")
    adds_bos = words == "llama-bpe" if adds_bos is None else bool(adds_bos)
    ends = [file.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    config = {f"{_HF.get(name, name)}_token": token for name, token in named.items()}
    if isinstance(template := file.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    return {
        "tokenizer.json": _tokenizer(words, tokens, merges, types, bos=named.get("bos") if adds_bos else None),
        "tokenizer_config.json": config,
        "generation_config.json": {"eos_token_id": sorted({end for end in ends if isinstance(end, int)})},
    }


def _tokenizer(
    words: str, tokens: list[str], merges: list[str], types: list[int], *, bos: str | None
) -> dict[str, Any]:
    """tokenizer.json. bos: the token that begins every text, if one does."""
    added = [
        {"id": i, "content": tokens[i], "special": kind == _CONTROL, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for i, kind in enumerate(types[: len(tokens)])
        if kind in (_CONTROL, _USER_DEFINED)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _WORDS[words]}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if words == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level if bos is None else _with_bos(bos, tokens.index(bos)),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},  # added ones, too: else they get other ids
            "merges": [merge.split(" ", 1) for merge in merges],
            "ignore_merges": words == "llama-bpe",
        },
    }


def _with_bos(bos: str, index: int) -> dict[str, Any]:
    special, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [special, text],
        "pair": [special, text, {"SpecialToken": {"id": bos, "type_id": 1}}, second],
        "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
    }
