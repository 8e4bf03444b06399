"""Text to token ids and back: a model folder's tokenizer, its chat template, and incremental detokenisation.

Owns the reading of tokenizer files. Nothing here knows requests. [host half: no jax]
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from jaxpaged.bounded_json import parse_json, read_bounded
from jaxpaged.chat_template import ChatTemplates, read_chat_templates
from jaxpaged.errors import JaxPagedError, PromptError, TokenizerError
from jaxpaged.generation_config import read_generation_config
from jaxpaged.panics import is_failure
from jaxpaged.token_span import longest_token
from jaxpaged.tokenizer_file import read_tokenizer, unreadable

_LONG = 1024
"""Characters, or token ids, from which on the library's form for batches is used: that one lets other threads run."""
_SHOWN = 200
"""Characters of a library's message that an error shows."""
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """A model folder's tokenizer. Immutable after loading; calls may come from several threads.

    `eos_ids`: every token id that ends a text, by generation_config.json, config.json and tokenizer_config.json.
    `longest_token`: characters that one token stands for at most, None where there is no bound.
    `special_ids`: ids that `decode` leaves out by default. `special_tokens`: the named ones ("bos_token": "<s>", ...).
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        eos_ids: Iterable[int] = (),
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        # some tokenizer.json files keep the truncation and padding of their training
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.special_tokens = dict(special_tokens or {})
        _mark_special(backend, self.special_tokens.values())
        self.special_ids = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
        self.eos_ids = tuple(sorted(set(eos_ids)))
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._templates = ChatTemplates(chat_templates or {}, self.special_tokens)
        decoders = _decoder_types(backend)
        self._spells_all = "ByteLevel" in decoders
        self._spells_bytes = "ByteFallback" in decoders
        self._byte_of = _byte_level_alphabet()
        self.longest_token = longest_token(backend, "".join(self._byte_of))
        self._spelled: dict[int, bytes | None] = {}  # at most the vocabulary

    @classmethod
    def load(cls, folder: str | Path, *, generation_config: str | Path | None = None) -> Tokenizer:
        """Read tokenizer.json and what lies beside it: tokenizer_config.json, special_tokens_map.json,
        chat_template.jinja, generation_config.json, config.json (all optional).

        generation_config: another folder whose generation_config.json names end tokens, in place of this one's.
        Raises TokenizerError naming the file that is missing or damaged, ModelError for a generation_config.json.
        """
        folder = Path(folder)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise TokenizerError(
                name="tokenizer",
                value=str(file),
                limit="there is no such file",
                fix="Save the tokenizer in its fast form (tokenizer.json), or name another folder with `tokenizer`",
            )
        backend = read_tokenizer(file)
        config = _read_json(folder / "tokenizer_config.json")
        templates, special = read_templates(folder)
        _add_declared(backend, config.get("added_tokens_decoder"), folder)
        generation, model = read_generation_config(generation_config or folder), _read_json(folder / "config.json")
        eos_ids = {*_eos_ids(generation, "generation_config.json"), *_eos_ids(model, "config.json")}
        if "eos_token" in special and (named := backend.token_to_id(special["eos_token"])) is not None:
            eos_ids.add(named)
        try:
            return cls(backend, special_tokens=special, eos_ids=eos_ids, chat_templates=templates)
        except BaseException as error:
            if isinstance(error, JaxPagedError) or not is_failure(error):
                raise
            raise unreadable(file, error) from error

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates.names)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; `add_special_tokens` adds those that the model wants around a text (often a bos).

        Raises PromptError for text that is not Unicode (lone surrogates).
        """
        try:
            if len(text) > _LONG:
                return self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeError) as error:
            raise PromptError(name="prompt", value=text, limit="it must be text that UTF-8 can hold") from error
        except BaseException as error:
            if not is_failure(error):
                raise
            limit = f"the model's tokenizer fails on it: {str(error)[:_SHOWN]}"
            raise PromptError(name="prompt", value=text, limit=limit) from error

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids. Unknown ids give no text, bytes that are no UTF-8 give U+FFFD.

        Raises PromptError for what cannot be a token id.
        """
        try:
            if len(ids) > _LONG:
                return self._backend.decode_batch([list(ids)], skip_special_tokens=skip_special_tokens)[0]
            return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError) as error:
            limit = "each must be a whole number from 0"
            raise PromptError(name="token ids", value=list(ids)[:16], limit=limit) from error
        except BaseException as error:
            if not is_failure(error):
                raise
            limit = f"the model's tokenizer fails on them: {str(error)[:_SHOWN]}"
            raise PromptError(name="token ids", value=list(ids)[:16], limit=limit) from error

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """The tokens as the vocabulary writes them; "" for unknown ids."""
        return [self._backend.id_to_token(i) or "" for i in ids]

    @property
    def chat_template(self) -> str | None:
        """The source of the default chat template."""
        return self._templates.source

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **kwargs: Any
    ) -> str:
        """The prompt of a conversation; its special tokens are in the text, so encode it without adding any.

        kwargs go to the template (`tools`, `documents`, ...); `chat_template` names one of several templates.
        Raises TokenizerError for a template that is missing or damaged, PromptError for messages that it refuses.
        """
        return self._templates.render(messages, add_generation_prompt=add_generation_prompt, **kwargs)

    def spell(self, token: int) -> bytes | None:
        """The bytes that a token stands for whatever is around it, or None where its text depends on the one before."""
        try:
            return self._spelled[token]  # asked for every token of every answer
        except KeyError:
            spelled = self._spell(token)
        if token < self.vocab_size:
            self._spelled[token] = spelled
        return spelled

    def _spell(self, token: int) -> bytes | None:
        text = self._backend.id_to_token(token)
        if text is None:
            return b""
        if self._spells_all:
            try:
                return bytes([self._byte_of[character] for character in text])
            except KeyError:  # an added token is spelled as it is
                return text.encode()
        byte = _BYTE_TOKEN.fullmatch(text) if self._spells_bytes else None
        return bytes.fromhex(byte[1]) if byte else None


def read_templates(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The chat templates of a model folder by name, and its named special tokens, without the tokenizer itself.

    Raises TokenizerError.
    """
    config = _read_json(folder / "tokenizer_config.json")
    special = _special_tokens({**_read_json(folder / "special_tokens_map.json"), **config}, folder)
    return read_chat_templates(folder, config.get("chat_template")), special


class NoTokenizer:
    """In place of a `Tokenizer` where there is only a model: every token's text is empty, and text is refused."""

    eos_ids: tuple[int, ...] = ()
    special_ids: frozenset[int] = frozenset()
    has_chat_template = False

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Raises PromptError."""
        del add_special_tokens
        limit = "it is text, and this engine has no tokenizer"
        raise PromptError(name="prompt", value=text, limit=limit, fix="Give token ids, or name a folder with tokenizer")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Nothing, whatever the ids."""
        del ids, skip_special_tokens
        return ""

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **kwargs: Any
    ) -> str:
        """Raises TokenizerError."""
        del messages, add_generation_prompt, kwargs
        limit = "this engine has none, so no chat template either"
        raise TokenizerError(name="tokenizer", value=None, limit=limit, fix="Name a folder with tokenizer")

    def spell(self, token: int) -> bytes | None:
        """Nothing, whatever the token."""
        del token
        return b""


class Detokenizer:
    """Token ids in, certain text out: never half a character. One per answer.

    The pieces joined are `tokenizer.decode` of all ids where tokens are bytes (byte-level BPE). Elsewhere the text of a
    token is what decoding adds after the token before it, so each push decodes at most two; byte tokens (`<0xE2>`) are
    gathered to characters, and invalid ones give U+FFFD alone rather than taking their neighbours along.
    """

    def __init__(self, tokenizer: Tokenizer | NoTokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped: frozenset[int] = tokenizer.special_ids if skip_special_tokens else frozenset()
        # U+FFFD for each maximal invalid part, as tokenizers does
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._before: int | None = None  # the latest token that had a text

    def push(self, token_id: int) -> str:
        """Take the next token; returns the text that is certain now and was not before."""
        if token_id in self._skipped:
            return ""
        spelled = self._tokenizer.spell(token_id)
        if spelled == b"":
            return ""
        before, self._before = self._before, token_id
        if spelled is not None:
            return self._utf8.decode(spelled)
        ended = self.flush()  # no byte of this token can end a character begun before it
        if before is None:
            return ended + self._decode(token_id)
        return ended + self._decode(before, token_id)[len(self._decode(before)) :]

    def flush(self) -> str:
        """The rest: bytes of a character that never ended give U+FFFD."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text

    def _decode(self, *ids: int) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


def _decoder_types(backend: tokenizers.Tokenizer) -> set[str]:
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    return {part["type"] for part in decoder.get("decoders", [decoder]) if part}


def _byte_level_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes: those that print are themselves, others 256 and up."""
    prints = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in prints]
    return {chr(byte): byte for byte in prints} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _mark_special(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> None:
    """Named special tokens are special even where tokenizer.json forgot it; those without an id stay plain text."""
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    missing = [text for text in texts if text not in known and backend.token_to_id(text) is not None]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in missing])


def _add_declared(backend: tokenizers.Tokenizer, declared: Any, folder: Path) -> None:
    """Add the tokens that only tokenizer_config.json has, where they get the ids that it says."""
    if declared is None:
        return
    file = folder / "tokenizer_config.json"
    try:
        entries = sorted(((int(i), token) for i, token in declared.items()), key=itemgetter(0))
        added = [(_token_id(i), _unicode(token["content"]), bool(token.get("special"))) for i, token in entries]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        limit = f'each entry must map an id to {{"content": text, "special": true or false}}: {error}'[:_SHOWN]
        raise TokenizerError(name=f"added_tokens_decoder of {file}", value=declared, limit=limit) from error
    size, new = backend.get_vocab_size(), dict[str, bool]()
    for i, text, special in added:
        is_known = text in new or backend.token_to_id(text) is not None or backend.id_to_token(i) is not None
        if text and not is_known and i == size + len(new):
            new[text] = special
    # at once: after every call the library looks at all of them again
    backend.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in new.items()])
    _mark_special(backend, dict.fromkeys(text for _, text, special in added if special))


def _special_tokens(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The named special tokens, each a string or {"content": string}; null and absent ones are left out."""
    found: dict[str, str] = {}
    for name in _NAMED_TOKENS:
        value = config.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        if text is None and value is None:
            continue
        try:
            found[name] = _unicode(text)
        except (TypeError, ValueError) as error:
            limit = 'it must be a string or {"content": string}, in Unicode'
            raise TokenizerError(name=f"{name} of {folder}", value=value, limit=limit) from error
    return found


def _unicode(text: object) -> str:
    """The text itself. Raises TypeError, and ValueError for half a surrogate."""
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} is no text")
    text.encode()
    return text


def _token_id(i: int) -> int:
    """The number itself. Raises ValueError for one that the library cannot hold."""
    if not 0 <= i < 2**32:
        raise ValueError("an id must be from 0 and below 2**32")
    return i


def _eos_ids(config: Mapping[str, Any], file: str) -> list[int]:
    """`eos_token_id` of a config file, at the top or in `text_config`: an id, a list of them, or none."""
    inner = config.get("text_config")
    value = config.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, Mapping) else None)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for i in ids:
        if isinstance(i, bool) or not isinstance(i, int) or i < 0:
            limit = "it must be a token id or a list of them"
            raise TokenizerError(name=f"eos_token_id of {file}", value=value, limit=limit)
    return ids


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no such file."""
    if not file.is_file():
        return {}
    try:
        value = parse_json(read_bounded(file), hook=dict)
    except (OSError, ValueError) as error:
        raise TokenizerError(name=file.name, value=str(file), limit=f"it cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(name=file.name, value=str(file), limit="it must hold a JSON object")
    return value
