"""Tokens by rank in lines of base64: Llama 3's first tokenizer.model, GLM-4's, qwen.tiktoken. [host half: no jax]

Such a file says neither where texts are cut nor which tokens are special: that comes with the model's name.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.bounds import MAX_SPECIAL, MAX_TOKENS, read_file
from jaxpaged.tokenizer_files.byte_level import LLAMA_3, QWEN, ranked_bpe
from jaxpaged.tokenizer_files.source import Source, reading

_SUFFIX = ".tiktoken"
_LLAMA_3_TOKENS = 128_000
_LLAMA_3_SPECIAL = {
    **{0: "<|begin_of_text|>", 1: "<|end_of_text|>", 4: "<|finetune_right_pad_id|>", 6: "<|start_header_id|>"},
    **{7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>", 10: "<|python_tag|>"},
}
"""Of its 256 special tokens, those with a meaning (3.1 and later); the others are reserved, and numbered."""
_CUT_LIKE_LLAMA_3 = ("llama", "mllama", "chatglm", "glm", "glm4")


def is_tiktoken(path: Path) -> bool:
    """Whether a file is of this kind: its first line is base64, a space and a number."""
    with path.open("rb") as file:
        parts = file.readline(1024).split()
    if len(parts) != 2 or not parts[1].isdigit():
        return False
    try:
        return bool(binascii.a2b_base64(parts[0], strict_mode=True))
    except binascii.Error:
        return False


def read_tiktoken(path: Path, *, model_type: str | None, declared: Mapping[int, str]) -> Source:
    """model_type: of config.json; declared: tokens that tokenizer_config.json adds, by id. Raises TokenizerError."""
    with reading(path):
        tokens = _tokens(path)
        if path.suffix == _SUFFIX and path.stem == "qwen":
            names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
            special = {text: len(tokens) + i for i, text in enumerate(names)}
            backend = ranked_bpe(tokens, pattern=QWEN, special=special, nfc=True)
            return Source(backend=backend, special_tokens={"eos_token": "<|endoftext|>"})
        if path.suffix == _SUFFIX or model_type not in (*_CUT_LIKE_LLAMA_3, None):
            fix = "Save the tokenizer in its fast form, tokenizer.json"
            limit = "how texts are cut is not known for it"
            raise TokenizerError(name="tokenizer", value=f"{path} ({model_type})", limit=limit, fix=fix)
        if any(i >= len(tokens) for i in declared):
            special = {text: i for i, text in _filled(declared, len(tokens)).items()}
            return Source(backend=ranked_bpe(tokens, pattern=LLAMA_3, special=special))
        special, named = {}, {}
        if len(tokens) == _LLAMA_3_TOKENS:
            special = {text: len(tokens) + i for i, text in _llama_3_special().items()}
            named = {"bos_token": _LLAMA_3_SPECIAL[0], "eos_token": _LLAMA_3_SPECIAL[1]}
        backend = ranked_bpe(tokens, pattern=LLAMA_3, special=special)
    return Source(backend=backend, special_tokens=named, adds_bos=True)


def _tokens(path: Path) -> list[bytes]:
    """The tokens in the order of their ranks, which must be 0, 1, ..."""
    tokens: list[bytes] = []
    for line in BytesIO(read_file(path)):
        if not (parts := line.split()):
            continue
        spelled, rank = parts
        if int(rank) != len(tokens):
            raise TokenizerError(name=f"rank in {path}", value=int(rank), limit=f"it must be {len(tokens)}")
        if len(tokens) == MAX_TOKENS:
            raise TokenizerError(name=f"tokens of {path}", value=int(rank), limit=f"at most {MAX_TOKENS} are read")
        tokens.append(binascii.a2b_base64(spelled, strict_mode=True))
    return tokens


def _llama_3_special() -> dict[int, str]:
    reserved = (f"<|reserved_special_token_{i}|>" for i in range(256))
    return {i: _LLAMA_3_SPECIAL.get(i) or next(reserved) for i in range(256)}


def _filled(declared: Mapping[int, str], first: int) -> dict[int, str]:
    """The declared tokens from id `first` on, without gaps."""
    last = max(declared)
    if last - first >= MAX_SPECIAL:
        limit = f"the vocabulary ends at {first - 1}, and at most {MAX_SPECIAL} tokens follow it"
        raise TokenizerError(name="added_tokens_decoder", value=last, limit=limit)
    return {i: declared.get(i, f"<|reserved_token_{i}|>") for i in range(first, last + 1)}
