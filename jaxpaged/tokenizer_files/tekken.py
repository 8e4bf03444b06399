"""tekken.json: Mistral's tokenizers since Nemo. [host half: no jax]

Format: mistral-common's, docs at https://mistralai.github.io/mistral-common. Ids begin with the special tokens; the
tokens by rank follow, as many as the vocabulary's size leaves room for.
"""

from __future__ import annotations

import binascii
from pathlib import Path
from typing import Any

from jaxpaged.bounded_json import parse_json
from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.bounds import check_special, read_file
from jaxpaged.tokenizer_files.byte_level import ranked_bpe
from jaxpaged.tokenizer_files.source import Source, reading

FILE = "tekken.json"
_BEFORE_V11 = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
"""Special tokens of files that do not list them, which are those up to v7."""
_LISTLESS = ("v1", "v2", "v3", "v7")


def read_tekken(path: Path) -> Source:
    """Raises TokenizerError."""
    with reading(path):
        told = parse_json(read_file(path), hook=dict)
        config, vocab = told["config"], told["vocab"]
        size, num_special = int(config["default_vocab_size"]), int(config["default_num_special_tokens"])
        check_special(num_special)
        if not 0 <= num_special < size <= len(vocab) + num_special:
            limit = f"{num_special} special tokens and {len(vocab)} others cannot make a vocabulary of {size}"
            raise TokenizerError(name=f"config of {path}", value=size, limit=limit)
        ranked = [_bytes(entry) for entry in sorted(vocab, key=lambda entry: entry["rank"])[: size - num_special]]
        special = _special(told.get("special_tokens"), str(config.get("version")), num_special)
        backend = ranked_bpe(ranked, pattern=config["pattern"], special=special, first_id=num_special)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    found = {name: text for name, text in named.items() if text in special}
    return Source(backend=backend, special_tokens=found, adds_bos=True)


def _bytes(entry: dict[str, Any]) -> bytes:
    return binascii.a2b_base64(entry["token_bytes"], strict_mode=True)


def _special(listed: list[dict[str, Any]] | None, version: str, count: int) -> dict[str, int]:
    """Ids of the special tokens; those that the file leaves out are <SPECIAL_id>."""
    if listed is None:
        if version not in _LISTLESS:
            limit = "special_tokens is missing, and what they are is not known for this version"
            raise TokenizerError(name=f"version of {FILE}", value=version, limit=limit)
        texts = dict(enumerate(_BEFORE_V11[:count]))
    else:
        texts = {int(entry["rank"]): str(entry["token_str"]) for entry in listed}
    if any(not 0 <= i < count for i in texts) or len(set(texts.values())) != len(listed or texts):
        limit = f"their ranks must go from 0 to {count - 1}, each token once"
        raise TokenizerError(name=f"special_tokens of {FILE}", value=list(texts), limit=limit)
    fillers = {f"<SPECIAL_{i}>": i for i in range(count) if i not in texts}
    if taken := next((text for text in texts.values() if text in fillers), None):
        limit = f"that is the name of rank {fillers[taken]}, which is not listed"
        fix = "List the special tokens of all ranks"
        raise TokenizerError(name=f"special_tokens of {FILE}", value=taken, limit=limit, fix=fix)
    return {text: i for i, text in sorted([*texts.items(), *((i, text) for text, i in fillers.items())])}
