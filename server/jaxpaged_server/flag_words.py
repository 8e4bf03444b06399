"""A command line of `serve`, taken apart: which flags it names, with which values, as vLLM's own parser sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxpaged.errors import ConfigError
from jaxpaged_server.flag_forms import FlagForm

_NEGATIVE_NUMBER = re.compile(r"-[0-9]+|-[0-9]*\.[0-9]+")
LINE = "the command line"

Lookup = Callable[[str], tuple[FlagForm, bool] | None]
"""Spelling (with dashes, no underscores) -> the flag, and whether it says yes; None where there is no such flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A flag that somebody gave. written: as it stood there. on: it says yes. source: who gave it."""

    form: FlagForm
    written: str
    values: tuple[str, ...] = ()
    on: bool = True
    source: str = LINE

    @property
    def shown(self) -> str:
        """The flag with its values, for people, in one short line."""
        text = " ".join((self.written, *self.values))
        plain = "".join(letter if letter.isprintable() else "?" for letter in text)
        return plain if len(plain) <= 80 else f"{plain[:80]}..."

    def words(self) -> list[str]:
        """The flag in one form for all, as tyro reads it."""
        name = f"--{self.form.name}"
        if self.form.takes in ("switch", "flag"):
            return [name if self.on else f"--no-{self.form.name}"]
        return [f"{name}={value}" for value in self.values]


@dataclass(slots=True)
class _Reader:
    lookup: Lookup
    unknown: Callable[[str], ConfigError]
    words: list[str]
    given: list[Given] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    parts: dict[str, tuple[FlagForm, str, dict[str, Any]]] = field(default_factory=dict)

    def read(self) -> None:
        self.words.reverse()
        while self.words:
            word = self.words.pop()
            if word == "--":
                self.plain += reversed(self.words)
                break
            if is_flag(word):
                self._flag(word)
            else:
                self.plain.append(word)
        for form, written, value in self.parts.values():
            self.given.append(Given(form=form, written=written, values=(json.dumps(value),)))

    def _flag(self, word: str) -> None:
        spelled, equals, text = word.partition("=")
        spelled, dot, key = spelled.partition(".")
        spelled = dashed(spelled)
        attached = [text] if equals else []
        found = self.lookup(spelled)
        if found is None and not spelled.startswith("--") and len(spelled) > 2:  # -O3, -qint8
            found, attached = self.lookup(spelled[:2]), [word[2:]]
            spelled = spelled[:2]
            dot = ""
        if found is None:
            raise self.unknown(spelled)  # without its value, which may be a key
        form, on = found
        if dot:
            self._part(form, spelled, key, attached)
            return
        values = attached or self._following(form, spelled)
        if form.takes in ("switch", "flag") and values:
            on = on == truth(spelled, values[0])
            values = []
        self.given.append(Given(form=form, written=spelled, values=tuple(values), on=on))

    def _part(self, form: FlagForm, spelled: str, key: str, attached: list[str]) -> None:
        """One value of a JSON flag: --x.key.inner value; with + after the key, an element of a list or several."""
        if form.takes != "json" or not key or not all(key.removesuffix("+").split(".")):
            raise self.unknown(f"{spelled}.{key}")
        text = attached[0] if attached else self._next(f"{spelled}.{key}")
        _, _, target = self.parts.setdefault(form.name, (form, spelled, {}))
        *outer, last = key.removesuffix("+").split(".")
        for step in outer:
            inner = target.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ConfigError(name=f"{spelled}.{key}", value=text, limit=f"{step} has a value of its own already")
            target = inner
        if not key.endswith("+"):
            target[last] = _json_value(text)
            return
        known = target.setdefault(last, [])
        if not isinstance(known, list):
            raise ConfigError(name=f"{spelled}.{key}", value=text, limit=f"{last} has a value of its own already")
        known += text.split(",")

    def _following(self, form: FlagForm, spelled: str) -> list[str]:
        if form.takes in ("switch", "flag"):
            return []
        if form.takes == "optional":
            return [self.words.pop()] if self.words and not is_flag(self.words[-1]) else []
        values = [self._next(spelled)]
        while form.takes == "values" and self.words and not is_flag(self.words[-1]):
            values.append(self.words.pop())
        return values

    def _next(self, spelled: str) -> str:
        if not self.words or is_flag(self.words[-1]):
            raise ConfigError(name=spelled, value=None, limit="it takes a value", fix=f"As in {spelled}=VALUE")
        return self.words.pop()


def read_words(
    words: Iterable[str], lookup: Lookup, unknown: Callable[[str], ConfigError]
) -> tuple[list[Given], list[str]]:
    """The flags of a line in their order, and the words that belong to none.

    unknown: makes the error for a word that is no flag. Raises it, and ConfigError for a flag without its value.
    """
    reader = _Reader(lookup=lookup, unknown=unknown, words=list(words))
    reader.read()
    return reader.given, reader.plain


def is_flag(word: str) -> bool:
    """Whether a word is a flag, and not the value of one: -1 and - are values."""
    return word.startswith("-") and word != "-" and not _NEGATIVE_NUMBER.fullmatch(word)


def dashed(spelled: str) -> str:
    """--max_model_len is --max-model-len."""
    return spelled.replace("_", "-") if spelled.startswith("--") else spelled


def truth(name: str, text: str) -> bool:
    """The meaning of --x=true and --x=false. Raises ConfigError."""
    if (word := text.strip().lower()) in ("true", "false"):
        return word == "true"
    raise ConfigError(name=name, value=text, limit="it must be true or false")


def latest(*sources: Sequence[Given]) -> list[Given]:
    """Of each flag what counts: the last time it is given, in the first source that gives it."""
    chosen: dict[str, Given] = {}
    for source in sources:
        chosen = {given.form.name: given for given in source} | chosen
    return list(chosen.values())


def spelled_forms(forms: Iterable[FlagForm]) -> Mapping[str, tuple[FlagForm, bool]]:
    """Every spelling of every flag."""
    return {spelling: (form, on) for form in forms for spelling, on in form.spellings()}


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
