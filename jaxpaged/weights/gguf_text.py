"""The tokenizer in a GGUF file's metadata, as the files that a tokenizer's folder has. [no jax]

Byte-level BPE splits words as its name says and nothing else: a name that is not known here would split them otherwise,
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

import tokenizers

from jaxpaged.config import default_compile_cache
from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.byte_level import LLAMA_3, QWEN
from jaxpaged.tokenizer_files.source import put_around, reading
from jaxpaged.tokenizer_files.token_list import from_token_list
from jaxpaged.weights.gguf_file import GGUFFile

WORDS: Mapping[str, str] = {"llama-bpe": LLAMA_3, "qwen2": QWEN}
"""How words are split, by `tokenizer.ggml.pre`: the expressions of Llama 3's and Qwen 2's own tokenizer.json."""
_NAMED = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
"""Named tokens, in GGUF's words and in Hugging Face's."""
_FIX = "Give --tokenizer: the folder of the model it was made of, or its name on the hub"


def text_folder(path: Path, *, cache: Path | None = None) -> Path:
    """A folder with tokenizer.json and its companions, made of a GGUF file's metadata; kept in the user's cache.

    Raises ModelError for a file that cannot be read, TokenizerError for a tokenizer that cannot be made of it.
    """
    files = _files(GGUFFile(path))
    digest = hashlib.sha256("\0".join(files.values()).encode()).hexdigest()[:16]
    folder = (cache or default_compile_cache().parent / "gguf") / digest
    if folder.is_dir():
        return folder
    part: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, text in files.items():
            (part / name).write_text(text, encoding="utf-8")
        os.replace(part, folder)
    except OSError as error:
        if not folder.is_dir():  # else somebody else was first
            limit = f"{folder} cannot be written: {error.strerror}"
            raise TokenizerError(name="tokenizer", value=str(path), limit=limit, fix=_FIX) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _files(file: GGUFFile) -> dict[str, str]:
    """Texts of the folder's files by name. Raises TokenizerError."""
    tokens: list[str] = _listed(file, "tokens", str)
    indices = {name: file.get(f"tokenizer.ggml.{name}_token_id") for name in (*_NAMED, "eot")}
    known = {name: index for name, index in indices.items() if type(index) is int and 0 <= index < len(tokens)}
    bos = tokens[known["bos"]] if "bos" in known else None
    config = {f"{_NAMED[name]}_token": tokens[known[name]] for name in _NAMED if name in known}
    if isinstance(template := file.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    ends = sorted({known[name] for name in ("eos", "eot") if name in known})
    with reading(file.path):
        backend = _backend(file, tokens, bos).to_str()
    return {
        "tokenizer.json": backend,
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False),
        "generation_config.json": json.dumps({"eos_token_id": ends}),
    }


def _backend(file: GGUFFile, tokens: list[str], bos: str | None) -> tokenizers.Tokenizer:
    """llama.cpp puts a bos before a text where the metadata says so, and where it says nothing as the kind has it."""
    kind, words = file.get("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre")
    merges, scores = _listed(file, "merges", str), _listed(file, "scores", int, float)
    kinds = _listed(file, "token_type", int) or [1] * len(tokens)
    adds_bos = file.get("tokenizer.ggml.add_bos_token")
    try:
        if tokens and kind == "gpt2" and isinstance(words, str) and words in WORDS and merges:
            by_default = llama = words == "llama-bpe"
            pattern = WORDS[words]
            backend = from_token_list(tokens, kinds, merges=merges, pattern=pattern, whole_words=llama, nfc=not llama)
        elif tokens and kind == "llama" and scores:
            by_default, prefixed = True, file.get("tokenizer.ggml.add_space_prefix")
            backend = from_token_list(tokens, kinds, scores=scores, prefixed=prefixed is None or bool(prefixed))
        else:
            limit = f"of the tokenizers in GGUF files llama, and gpt2 with {' or '.join(WORDS)}, can be read"
            raise TokenizerError(name="tokenizer", value=f"{kind}, {words}", limit=limit)
    except TokenizerError as error:
        name = f"{error.name} of {file.path.name}"
        raise TokenizerError(name=name, value=error.value, limit=error.limit, fix=_FIX) from error
    put_around(backend, bos=bos if (by_default if adds_bos is None else adds_bos) else None)
    return backend


def _listed(file: GGUFFile, name: str, *kinds: type) -> list[Any]:
    """A list of the metadata whose values are of these kinds; [] where there is none. Raises TokenizerError."""
    values = file.get(f"tokenizer.ggml.{name}")
    if values is None:
        return []
    if not isinstance(values, list) or any(type(value) not in kinds for value in values):
        limit = f"it must be a list of {'texts' if str in kinds else 'numbers'}"
        name = f"tokenizer.ggml.{name} of {file.path.name}"
        raise TokenizerError(name=name, value=values, limit=limit, fix=_FIX)
    return values
