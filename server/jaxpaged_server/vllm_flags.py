"""What becomes of every flag of `vllm serve`: supported, ignored (accepted, without effect) or refused, and why.

The table is vllm_flags.toml. `python -m jaxpaged_server.vllm_flags` writes the page docs/VLLM_FLAGS.md of it.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpaged_server.flag_forms import FlagForm

TABLE = Path(__file__).with_name("vllm_flags.toml")
PAGE = "docs/VLLM_FLAGS.md"
VERDICTS = ("supported", "ignored", "refused")
_KEYS = frozenset({"takes", "aliases", "instead", "same", *VERDICTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmFlag:
    """One flag. why: what differs, or the reason, without a full stop. instead: what to do where it is refused.

    same: values of a refused flag that ask for what is so anyway ("true" and "false" for a switch).
    """

    form: FlagForm
    group: str
    verdict: str
    why: str
    instead: str = ""
    same: tuple[str, ...] = ()

    def is_refused(self, values: Sequence[str], *, on: bool) -> bool:
        """Whether it asks for what cannot be."""
        if self.verdict != "refused":
            return False
        asked = values if values or self.form.takes != "switch" else ("true" if on else "false",)
        return not asked or not all(value.strip() in self.same for value in asked)

    @property
    def reason(self) -> str:
        """Why, and what to do instead."""
        return f"{self.why}. {self.instead}" if self.instead else self.why


def read_flags(table: Path = TABLE) -> tuple[VllmFlag, ...]:
    """The table, in its order."""
    data = tomllib.loads(table.read_text(encoding="utf-8"))
    return tuple(_flag(name, group, row) for group, rows in data["groups"].items() for name, row in rows.items())


def version(table: Path = TABLE) -> str:
    """The vLLM whose flags they are."""
    return tomllib.loads(table.read_text(encoding="utf-8"))["vllm"]


def _flag(name: str, group: str, row: Mapping[str, Any]) -> VllmFlag:
    verdicts = [verdict for verdict in VERDICTS if verdict in row]
    assert len(verdicts) == 1 and set(row) <= _KEYS, f"{name}: {sorted(row)}"  # noqa: PT018
    return VllmFlag(
        form=FlagForm(name=name, takes=row["takes"], aliases=tuple(row.get("aliases", ()))),
        group=group,
        verdict=verdicts[0],
        why=row[verdicts[0]],
        instead=row.get("instead", ""),
        same=tuple(row.get("same", ())),
    )


def page(flags: Sequence[VllmFlag], vllm: str) -> str:
    """The table as a page of documentation."""
    counts = {verdict: sum(flag.verdict == verdict for flag in flags) for verdict in VERDICTS}
    lines = [
        "# Flags of `vllm serve` in `jaxpaged serve`",
        "",
        "Written by `python -m jaxpaged_server.vllm_flags` from `server/jaxpaged_server/vllm_flags.toml`: "
        "change that, not this.",
        "",
        f"Every flag of vLLM {vllm}, and some that it had before: {counts['supported']} are supported, "
        f"{counts['ignored']} ignored, {counts['refused']} refused.",
        "",
        "- **supported**: does what it does in vLLM, but for what is said beside it.",
        "- **ignored**: accepted with its values, and without effect. One line of the log names those that were given.",
        "- **refused**: what it asks for cannot be. The server does not start; a line says why, the exit status is 2. "
        "Values that ask for what is so anyway are accepted.",
        "",
        "A switch `--enable-x` has the forms `--no-enable-x` and `--disable-x`, too. Underscores do for dashes, and "
        "`--x.key value` for JSON. `jaxpaged serve --help` lists the options that vLLM does not have.",
    ]
    for group in dict.fromkeys(flag.group for flag in flags):
        lines += ["", f"## {group}", "", "| flag | here | |", "|---|---|---|"]
        lines += [_row(flag) for flag in flags if flag.group == group]
    return "\n".join(lines) + "\n"


def _row(flag: VllmFlag) -> str:
    spelled = ", ".join(f"`{word}`" for word in (f"--{flag.form.name}", *flag.form.aliases))
    first, _, rest = flag.reason.partition(" ")
    told = f"{first.capitalize() if first.isalpha() and first.islower() else first} {rest}".strip()
    if flag.verdict == "refused" and flag.same:
        switch = flag.form.takes == "switch"
        words = {"true": "on", "false": "off"} if switch else {}
        same = " or ".join(words.get(value, f"`{value}`" if value else "an empty text") for value in flag.same)
        told += f". Accepted: {same}"
    return f"| {spelled} | {flag.verdict} | {_cell(told)}{'.' if told else ''} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page(read_flags(), version()))
