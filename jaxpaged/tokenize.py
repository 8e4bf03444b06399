"""Text to token ids and back: a model folder's tokenizer and its chat templates.

Owns what is asked of a tokenizer; how the files of each kind are read: `tokenizer_files`. Nothing here knows requests.
[host half: no jax]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from jaxpaged.chat_template import ChatTemplates, read_chat_templates
from jaxpaged.errors import PromptError, TokenizerError
from jaxpaged.generation_config import read_generation_config
from jaxpaged.panics import is_failure
from jaxpaged.templating.process import CappedTemplates
from jaxpaged.token_span import longest_token
from jaxpaged.tokenizer_files import FAST, Source, read_source
from jaxpaged.tokenizer_files.byte_level import alphabet
from jaxpaged.tokenizer_files.folder import (
    add_declared,
    declared_tokens,
    end_ids,
    mark_special,
    named_tokens,
    read_json,
)
from jaxpaged.tokenizer_files.source import put_around, reading
from jaxpaged.tokenizer_files.splitting import splitting

_LONG = 1024
"""Characters, or token ids, from which on the library's form for batches is used: that one lets other threads run."""
_SHOWN = 200
"""Characters of a library's message that an error shows."""
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """A model folder's tokenizer. Immutable after loading; calls may come from several threads.

    trusted: whether its chat templates are known to end; those of a folder run in a process that is ended if need be.
    `eos_ids`: every token id that ends a text, by generation_config.json (or, where it is silent, config.json) and by
    tokenizer_config.json: as in vLLM.
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
        trusted: bool = True,
    ) -> None:
        # some tokenizer.json files keep the truncation and padding of their training
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.special_tokens = dict(special_tokens or {})
        named = [AddedToken(text, special=True, normalized=False) for text in self.special_tokens.values()]
        mark_special(backend, named)
        self.special_ids = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
        self.eos_ids = tuple(sorted(set(eos_ids)))
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        made = ChatTemplates if trusted else CappedTemplates
        self._templates = made(chat_templates or {}, self.special_tokens)
        decoders = _decoder_types(backend)
        self._spells_all = "ByteLevel" in decoders
        self._spells_bytes = "ByteFallback" in decoders
        self._byte_of = alphabet()
        self.longest_token = longest_token(backend, "".join(self._byte_of))
        self._spelled: dict[int, bytes | None] = {}  # at most the vocabulary

    @classmethod
    def load(
        cls, folder: str | Path, *, model: str | Path | None = None, generation_config: str | Path | None = None
    ) -> Tokenizer:
        """Read a folder's tokens, tokenizer.json or an older form (`tokenizer_files`), and what lies beside them:
        tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.jinja, generation_config.json,
        config.json (all optional).

        model: the folder whose generation_config.json and config.json name end tokens, where it is another one; a
        file has neither, so that the folder of the tokens does.
        generation_config: a folder whose generation_config.json names them, in place of the model's.
        Raises TokenizerError naming the file that is missing or damaged, or the package that reading it needs, and
        ModelError for a generation_config.json.
        """
        folder = Path(folder)
        config = read_json(folder / "tokenizer_config.json")
        source, special = _source(folder, config)
        backend = source.backend
        _put_around(source, config, special)
        if model is None or Path(model).is_file():  # of a model that is a file, the tokenizer's folder names them
            model = folder
        eos_ids = set(_end_ids(Path(model), Path(generation_config or model)))
        if "eos_token" in special and (named := backend.token_to_id(special["eos_token"])) is not None:
            eos_ids.add(named)
        templates = read_chat_templates(folder, config.get("chat_template"))
        with reading(folder):
            return cls(backend, special_tokens=special, eos_ids=eos_ids, chat_templates=templates, trusted=False)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The library's tokenizer, to be read only."""
        return self._backend

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates.names)

    def encode(self, text: str, *, add_special_tokens: bool = True, split_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`; `add_special_tokens` adds those that the model wants around a text (often a bos).

        A special token that is spelled in the text becomes that token, as chat templates need it; with
        `split_special_tokens` it is text like any other. Raises PromptError for text that is not Unicode (lone
        surrogates).
        """
        backend = self._splitting if split_special_tokens else self._backend
        try:
            if len(text) > _LONG:
                return backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
            return backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeError) as error:
            raise PromptError(name="prompt", value=text, limit="it must be text that UTF-8 can hold") from error
        except BaseException as error:
            if not is_failure(error):
                raise
            limit = f"the model's tokenizer fails on it: {str(error)[:_SHOWN]}"
            raise PromptError(name="prompt", value=text, limit=limit) from error

    @cached_property
    def _splitting(self) -> tokenizers.Tokenizer:
        """A copy of the backend, made when it is first needed, for which special tokens are text."""
        return splitting(self._backend, self.special_ids)

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

    def ids_within(self, texts: Iterable[str]) -> frozenset[int]:
        """The special tokens that are written in one of these texts."""
        whole = "\n".join(texts)
        ids = sorted(self.special_ids)
        return frozenset(i for i, text in zip(ids, self.token_strings(ids), strict=True) if text and text in whole)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """The tokens as the vocabulary writes them; "" for unknown ids."""
        return [self._backend.id_to_token(i) or "" for i in ids]

    def token_id(self, text: str) -> int | None:
        """The id of the token that the vocabulary writes so; None where there is none."""
        return self._backend.token_to_id(text)

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
        # a space may be the one that decoding takes off the beginning
        if self._spells_bytes and text != "<0x20>" and _BYTE_TOKEN.fullmatch(text):
            return bytes.fromhex(text[3:5])
        return None


def read_templates(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The chat templates of a model folder by name, and its named special tokens, without the tokenizer itself where
    other files name those. Raises TokenizerError.
    """
    config = read_json(folder / "tokenizer_config.json")
    special = named_tokens(config, folder)
    if not (folder / FAST).is_file() and not {"bos_token", "eos_token"} <= special.keys():
        _, special = _source(folder, config)
    return read_chat_templates(folder, config.get("chat_template")), special


def _source(folder: Path, config: Mapping[str, Any]) -> tuple[Source, dict[str, str]]:
    """A folder's tokens, and its named special ones. Raises TokenizerError."""
    declared = declared_tokens(config, folder)
    source = read_source(folder, config=config, declared={i: token.content for i, token in declared.items()})
    add_declared(source.backend, declared)
    own = {name: text for name, text in source.special_tokens.items() if config.get(name, "") == ""}
    return source, {**own, **named_tokens(config, folder)}


def _end_ids(model: Path, generation: Path) -> list[int]:
    """The end tokens of a model; config.json, which is often stale, counts where generation_config.json has none."""
    ids = end_ids(read_generation_config(generation), "generation_config.json")
    return ids or end_ids(read_json(model / "config.json"), "config.json")


def _put_around(source: Source, config: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """Let the tokenizer put those tokens around a text that the configuration asks for, or else its kind.

    tokenizer.json tells itself what it does, and is believed: as transformers does.
    """
    if not source.is_whole:
        own = {"bos_token": source.adds_bos, "eos_token": source.adds_eos}
        wanted = [name for name, wants in own.items() if config.get(f"add_{name}", wants)]
        put_around(source.backend, **{name[:3]: special.get(name) for name in wanted})


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


def _decoder_types(backend: tokenizers.Tokenizer) -> set[str]:
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    return {part["type"] for part in decoder.get("decoders", [decoder]) if part}
