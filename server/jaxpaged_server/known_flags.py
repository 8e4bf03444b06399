"""Every flag that `serve` knows: ours, and vLLM's with what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from jaxpaged.errors import ConfigError
from jaxpaged_server.flag_forms import FlagForm, forms_of
from jaxpaged_server.flag_words import LINE, Given, spelled_forms
from jaxpaged_server.vllm_flags import PAGE, VllmFlag, read_flags


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedFlags:
    """Given flags by what becomes of them. ignored: each with its reason. refused: a line for each that says why."""

    ours: tuple[Given, ...]
    ignored: tuple[str, ...]
    refused: tuple[str, ...]


class KnownFlags:
    """kinds: dataclasses whose fields are our flags. more: flags of ours beside them.

    vLLM's table is read when a word is not ours, so that a line of our own flags does not pay for it.
    """

    def __init__(self, kinds: Sequence[type], *, more: Sequence[FlagForm] = ()) -> None:
        self.ours: Mapping[str, FlagForm] = forms_of(kinds) | {form.name: form for form in more}
        self._spelled = spelled_forms(self.ours.values())
        self._vllm: dict[str, VllmFlag] = {}
        self._spelled_vllm: Mapping[str, tuple[FlagForm, bool]] = {}

    def find(self, spelled: str) -> tuple[FlagForm, bool] | None:
        """The flag of a spelling, and whether it says yes; None where there is no such flag."""
        if found := self._spelled.get(spelled):
            return found
        self._read()
        found = self._spelled_vllm.get(spelled)
        return found and (self.ours.get(found[0].name, found[0]), found[1])

    def unknown(self, spelled: str) -> ConfigError:
        """The error for a flag that nobody has."""
        self._read()
        name = spelled if spelled.startswith("-") else f"--{spelled.replace('_', '-')}"
        known = list({**self._spelled, **self._spelled_vllm})
        begun = [word for word in known if word.startswith(name)] if len(name) > 4 else []
        near = (begun if 0 < len(begun) <= 3 else get_close_matches(name, known, n=3, cutoff=0.75)) or begun[:3]
        fix = f"Did you mean {' or '.join(near)}?" if near else "`jaxpaged serve --help` lists the flags"
        return ConfigError(name="flag", value=spelled, limit="there is no such flag", fix=fix)

    def sort(self, given: Sequence[Given]) -> SortedFlags:
        """What becomes of each."""
        ours = tuple(item for item in given if item.form.name in self.ours)
        theirs = [(item, self._vllm[item.form.name]) for item in given if item.form.name not in self.ours]
        return SortedFlags(
            ours=ours,
            ignored=tuple(f"{item.written} ({flag.why})" for item, flag in theirs if flag.verdict == "ignored"),
            refused=tuple(_refusal(item, flag) for item, flag in theirs if flag.is_refused(item.values, on=item.on)),
        )

    def _read(self) -> None:
        if not self._vllm:
            self._vllm = {flag.form.name: flag for flag in read_flags()}
            self._spelled_vllm = spelled_forms(flag.form for flag in self._vllm.values())


def _refusal(given: Given, flag: VllmFlag) -> str:
    whose = "" if given.source == LINE else f" of {given.source}"
    return f"{given.shown}{whose} is refused: {flag.reason}. See {PAGE}"
