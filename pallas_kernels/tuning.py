"""How kernels are cut for a device: entries of conditions and values as data, the first that fits is taken.

A table is a json file of one list per section. An entry says when it holds and what to use then:

    {"ragged_attention": [{"when": {"kind": "H200", "head_dim": 128}, "use": {"q_tile": 16, "num_warps": 4}}]}

Conditions of `when` name facts of a call and must all hold. `kind` holds where its text is part of the device's kind;
`max_NAME` and `min_NAME` where the fact NAME is at most and at least the number; others where they are equal. A list
means any of its members.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pallas_kernels.section import Bounds, Fact, Section
from pallas_kernels.target import Target

SECTIONS = ("device", "ragged_attention", "write_kv", "grouped_matmul")
DEVICE = Section(
    name="device",
    words={},
    numbers=(),
    values={"compute_units": Bounds(least=1, most=4096, power_of_two=False)},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a table. when: (condition, any of these); use: (name, value)."""

    section: str
    when: tuple[tuple[str, tuple[Fact, ...]], ...] = ()
    use: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if self.section not in SECTIONS:
            raise ValueError(f"section is {self.section!r}: it must be one of {', '.join(SECTIONS)}")
        for name, wanted in self.when:
            if not wanted or any(isinstance(fact, bool) or not isinstance(fact, str | int) for fact in wanted):
                raise ValueError(f"{self.section}: condition {name!r} is {wanted}: it must be texts or whole numbers")
        for name, value in self.use:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{self.section}: {name} is {value!r}: it must be a whole number")

    def fits(self, facts: Mapping[str, Fact]) -> bool:
        """Whether every condition holds. Raises ValueError for a condition on what is no fact of the section."""
        held = [_holds(name, wanted, facts, self.section) for name, wanted in self.when]  # no short cut past a bad one
        return all(held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Entries of all sections, in order of preference."""

    entries: tuple[Entry, ...] = ()


NO_TUNING = Table()


def _holds(name: str, wanted: tuple[Fact, ...], facts: Mapping[str, Fact], section: str) -> bool:
    fact_name = name.removeprefix("max_").removeprefix("min_")
    if fact_name not in facts:
        raise ValueError(f"{section} has no fact for the condition {name!r}: it knows {', '.join(facts)}")
    fact = facts[fact_name]
    if fact_name == "kind":
        return any(str(part).lower() in str(fact).lower() for part in wanted)
    if name == fact_name:
        return fact in wanted
    sign = 1 if name.startswith("max_") else -1
    return any(isinstance(bound, int) and isinstance(fact, int) and sign * fact <= sign * bound for bound in wanted)


def choose(table: Table, section: str, facts: Mapping[str, Fact]) -> dict[str, int]:
    """The values of the section's first entry that fits `facts`. Raises LookupError naming them where none does."""
    for entry in table.entries:
        if entry.section == section and entry.fits(facts):
            return dict(entry.use)
    raise LookupError(f"no tuning of {section} for {', '.join(f'{name} {fact}' for name, fact in facts.items())}")


def merged(first: Table, *others: Table) -> Table:
    """One table that tries the entries of each in turn: a user's table goes before the shipped one."""
    return Table(entries=sum((table.entries for table in others), first.entries))


def load_table(path: Path) -> Table:
    """The table of a json file. Raises ValueError naming the file and what is wrong with it, OSError if unreadable."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError(f"it holds a {type(raw).__name__}: it must be an object of sections")
        return Table(entries=tuple(entry for section, lines in raw.items() for entry in _entries(section, lines)))
    except (TypeError, ValueError) as error:  # what json raises is a ValueError
        raise ValueError(f"tuning table {path}: {error}") from error


def _entries(section: str, lines: Any) -> Iterator[Entry]:
    if section not in SECTIONS:
        raise ValueError(f"section is {section!r}: it must be one of {', '.join(SECTIONS)}")
    for number, line in enumerate(lines, start=1):
        try:
            yield _entry(section, line)
        except (TypeError, ValueError) as error:
            raise ValueError(f"entry {number} of {error}") from error


def _entry(section: str, line: Any) -> Entry:
    if not isinstance(line, dict) or set(line) - {"when", "use"} or not line.get("use"):
        raise ValueError(f"{section}: {line} must be an object of `use` and, where it does not always hold, `when`")
    when = line.get("when", {})
    return Entry(
        section=section,
        when=tuple((name, tuple(fact) if isinstance(fact, list) else (fact,)) for name, fact in when.items()),
        use=tuple(line["use"].items()),
    )


def as_json(table: Table) -> str:
    """The text of a file that `load_table` reads back: a line per entry."""
    sections: dict[str, list[str]] = {}
    for entry in table.entries:
        when = {name: wanted[0] if len(wanted) == 1 else list(wanted) for name, wanted in entry.when}
        sections.setdefault(entry.section, []).append(json.dumps({"when": when, "use": dict(entry.use)}))
    parts = [f'  "{name}": [\n    ' + ",\n    ".join(lines) + "\n  ]" for name, lines in sections.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def shipped_table(folder: Path) -> Table:
    """The table that lies in `folder` beside the kernels it is for."""
    return load_table(folder / "tuning.json")


DEVICES = shipped_table(Path(__file__).parent)


def compute_units(target: Target, table: Table = NO_TUNING) -> int:
    """SMs or CUs of the target: of its kind where that is known, else of its platform's usual device."""
    return choose(merged(table, DEVICES), "device", facts_of(target))["compute_units"]


def facts_of(target: Target, **others: Fact) -> dict[str, Fact]:
    """The facts of a call on this target, for `choose`."""
    return {"platform": target.platform, "kind": target.kind, **others}


def values_of(entries: Iterable[Entry], name: str) -> tuple[Fact, ...]:
    """What the entries ask of one condition, each once, in order: what gates and benches iterate over."""
    return tuple(dict.fromkeys(fact for entry in entries for n, wanted in entry.when if n == name for fact in wanted))
