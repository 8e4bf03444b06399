"""What a model folder says of its tokenizer beside the tokens themselves. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from jaxpaged.bounded_json import parse_json, read_bounded
from jaxpaged.errors import TokenizerError

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no such file. Raises TokenizerError."""
    if not file.is_file():
        return {}
    try:
        value = parse_json(read_bounded(file), hook=dict)
    except (OSError, ValueError) as error:
        raise TokenizerError(name=file.name, value=str(file), limit=f"it cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(name=file.name, value=str(file), limit="it must hold a JSON object")
    return value


def named_tokens(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The named special tokens of tokenizer_config.json or, where it is silent, of special_tokens_map.json.

    Each is a string or {"content": string}; null and absent ones are left out, "" stands for absent. Raises
    TokenizerError.
    """
    told = {
        **read_json(folder / "special_tokens_map.json"),
        **{key: said for key, said in config.items() if said != ""},
    }
    return {name: _text(told[name], name, folder) for name in _NAMED_TOKENS if told.get(name) is not None}


def end_ids(config: Mapping[str, Any], file: str) -> list[int]:
    """`eos_token_id` of a config file, at the top or in `text_config`: an id, a list of them, or none.

    Raises TokenizerError.
    """
    inner = config.get("text_config")
    value = config.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, Mapping) else None)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for i in ids:
        if isinstance(i, bool) or not isinstance(i, int) or i < 0:
            limit = "it must be a token id or a list of them"
            raise TokenizerError(name=f"eos_token_id of {file}", value=value, limit=limit)
    return ids


def declared_tokens(config: Mapping[str, Any], folder: Path) -> dict[int, AddedToken]:
    """The tokens that tokenizer_config.json and added_tokens.json add, by id. Raises TokenizerError."""
    plain = read_json(folder / "added_tokens.json")
    listed = config.get("added_tokens_decoder") or {}
    also_special = {_text(token, "additional_special_tokens", folder) for token in _additional(config, folder)}
    try:
        found = {
            _id(i): AddedToken(_unicode(text), special=text in also_special, normalized=False)
            for text, i in plain.items()
        }
        found |= {_id(i): _token(token) for i, token in listed.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        limit = 'each entry must map an id to {"content": text, "special": true or false}'
        raise TokenizerError(
            name=f"added tokens of {folder}: added_tokens_decoder", value=listed or plain, limit=limit
        ) from error
    return dict(sorted(found.items(), key=itemgetter(0)))


def add_declared(backend: tokenizers.Tokenizer, declared: Mapping[int, AddedToken]) -> None:
    """Add those tokens that are not there yet, where they get the ids that they should have."""
    size, new = backend.get_vocab_size(), dict[str, AddedToken]()
    for i, token in declared.items():
        text = token.content
        is_known = text in new or backend.token_to_id(text) is not None or backend.id_to_token(i) is not None
        if text and not is_known and i == size + len(new):
            new[text] = token
    # at once: after every call the library looks at all of them again
    backend.add_tokens(list(new.values()))
    mark_special(backend, list({token.content: token for token in declared.values() if token.special}.values()))


def mark_special(backend: tokenizers.Tokenizer, tokens: list[AddedToken]) -> None:
    """These tokens are special even where the file forgot it; those without an id stay plain text."""
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    missing = [
        token for token in tokens if token.content not in known and backend.token_to_id(token.content) is not None
    ]
    if missing:
        backend.add_special_tokens(missing)


def _additional(config: Mapping[str, Any], folder: Path) -> list[Any]:
    told = {**read_json(folder / "special_tokens_map.json"), **config}
    value = told.get("additional_special_tokens") or []
    if not isinstance(value, list):
        raise TokenizerError(name=f"additional_special_tokens of {folder}", value=value, limit="it must be a list")
    return value


def _text(value: Any, name: str, folder: Path) -> str:
    try:
        return _unicode(value.get("content") if isinstance(value, Mapping) else value)
    except (TypeError, ValueError) as error:
        limit = 'it must be a string or {"content": string}, in Unicode'
        raise TokenizerError(name=f"{name} of {folder}", value=value, limit=limit) from error


def _unicode(text: object) -> str:
    """The text itself. Raises TypeError, and ValueError for half a surrogate."""
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} is no text")
    text.encode()
    return text


def _id(told: Any) -> int:
    """A token's id. Raises TypeError, and ValueError for a number that the library cannot hold."""
    i = int(told)
    if not 0 <= i < 2**32:
        raise ValueError("an id must be from 0 and below 2**32")
    return i


def _token(told: Mapping[str, Any]) -> AddedToken:
    text = _unicode(told["content"])
    flags = {name: bool(told.get(name)) for name in ("special", "lstrip", "rstrip", "single_word")}
    return AddedToken(text, normalized=False, **flags)
