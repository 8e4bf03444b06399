"""vocab.json and merges.txt: GPT-2's tokenizer, and those made in its way (OPT, Qwen2). [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import models

from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.bounds import MAX_MERGES, MAX_TOKENS, check_count, read_file
from jaxpaged.tokenizer_files.byte_level import QWEN, byte_level_bpe
from jaxpaged.tokenizer_files.source import Source, reading

VOCAB, MERGES = "vocab.json", "merges.txt"
_LIKE_GPT_2 = ("GPT2Tokenizer", "CodeGenTokenizer", "GPTNeoXTokenizer")
_LIKE_QWEN_2 = ("Qwen2Tokenizer",)
_QWEN_TYPES = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")


def read_vocab_merges(folder: Path, *, config: Mapping[str, Any], model_type: str | None) -> Source:
    """config: tokenizer_config.json; model_type: of config.json. Raises TokenizerError."""
    made_for = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    like_qwen = made_for in _LIKE_QWEN_2 or (not made_for and model_type in _QWEN_TYPES)
    if made_for and not like_qwen and made_for not in _LIKE_GPT_2:
        raise TokenizerError(
            name=f"tokenizer_class of {folder}",
            value=made_for,
            limit=f"{VOCAB} and {MERGES} are read for {', '.join((*_LIKE_GPT_2, *_LIKE_QWEN_2))}",
            fix="Save the tokenizer in its fast form, tokenizer.json",
        )
    with reading(folder / MERGES):
        # what the library makes of them is bounded as for tokenizer.json
        check_count("names", read_file(folder / VOCAB).count(b":"), MAX_TOKENS)
        check_count("merges", read_file(folder / MERGES).count(b"\n"), MAX_MERGES)
        vocab, merges = models.BPE.read_file(str(folder / VOCAB), str(folder / MERGES))
        spaced = bool(config.get("add_prefix_space"))
        backend = byte_level_bpe(
            vocab, merges, pattern=QWEN if like_qwen else None, nfc=like_qwen, add_prefix_space=spaced
        )
    end = "<|endoftext|>"
    if backend.token_to_id(end) is None:
        return Source(backend=backend)
    return Source(
        backend=backend, special_tokens={"eos_token": end} if like_qwen else {"bos_token": end, "eos_token": end}
    )
