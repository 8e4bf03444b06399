"""A tokenizer for which special tokens are text like any other. [host half: no jax]"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import tokenizers

from jaxpaged.errors import TokenizerError


def splitting(backend: tokenizers.Tokenizer, special_ids: Collection[int]) -> tokenizers.Tokenizer:
    """A copy that never gives one of these ids for a text, unless its merges make it: to encode with, not to decode.

    Raises TokenizerError for a vocabulary that cannot be written and read again, as where two tokens have one id.
    """
    told = json.loads(backend.to_str())
    # added tokens are not looked for then; those of the vocabulary itself are found as whole words all the same
    hidden = _hide(told["model"], special_ids)
    told["added_tokens"] = [token for token in told["added_tokens"] if token["id"] not in hidden]
    try:
        copy = tokenizers.Tokenizer.from_str(json.dumps(told))
    except Exception as error:  # tokenizers raises bare Exception
        limit = f"it cannot be copied: {error}"
        raise TokenizerError(name="tokenizer", value=backend.get_vocab_size(), limit=limit) from error
    copy.encode_special_tokens = True
    return copy


def _hide(model: dict[str, Any], ids: Collection[int]) -> set[int]:
    """Give these entries of a vocabulary names that no word has, where that breaks no merge. Returns which."""
    vocab = model["vocab"]
    if model["type"] == "Unigram":
        hidden = {i for i in ids if i < len(vocab)}
        model["vocab"] = [[_name(i) if i in hidden else text, score] for i, (text, score) in enumerate(vocab)]
        return hidden
    if model["type"] != "BPE":
        return set()
    kept = {part for merge in model["merges"] for part in (*merge, "".join(merge))} | {model["unk_token"]}
    hidden = {i for text, i in vocab.items() if i in ids and text not in kept}
    model["vocab"] = {_name(i) if i in hidden else text: i for text, i in vocab.items()}
    return hidden


def _name(i: int) -> str:
    # the spaces of texts are written as other characters in vocabularies of both types
    return f" {i}"
