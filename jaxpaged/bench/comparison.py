"""What is compared: cases, engines and how often, as a TOML file says it. [no jax]"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from jaxpaged.bench.kinds import KINDS
from jaxpaged.errors import ConfigError

PRECISIONS = ("f32", "bf16", "f16", "int8", "int4")
_COMMON = ("max_num_seqs", "max_num_batched_tokens", "max_model_len")
Part = TypeVar("Part", "Case", "Engine", "_Head")
Named = TypeVar("Named", "Case", "Engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and a trace. max_concurrency: so many requests under way at most, 1 for one after the other."""

    name: str
    model: str
    trace: Path
    limit: int | None = None
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine with its settings. Paths are absolute; empty where the kind needs none."""

    name: str
    kind: str
    precision: str
    python: str = ""
    server: str = ""
    url: str = ""
    script: str = ""
    weights: str = ""  # which of a model's formats; the kind's own where empty
    command: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()  # all where empty
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def format(self) -> str:
        """Which of a model's formats it reads."""
        return self.weights or KINDS[self.kind].format


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All of it. models: by name, the path of each format. options: of every engine that does not say otherwise."""

    title: str
    threads: int
    rounds: int
    timeout_s: float
    models: Mapping[str, Mapping[str, Path]]
    cases: tuple[Case, ...]
    engines: tuple[Engine, ...]
    options: Mapping[str, Any]
    text: str

    def engines_of(self, case: Case) -> tuple[Engine, ...]:
        return tuple(engine for engine in self.engines if not engine.cases or case.name in engine.cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    title: str = "Engines compared"
    threads: int
    rounds: int = 5
    timeout_s: float = 1200.0
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None


def read_comparison(path: Path) -> Comparison:
    """Read a TOML file; paths in it are relative to its folder.

    Raises ConfigError for a file that cannot be read, a key that is unknown or missing, a value of the wrong type, a
    name that stands twice or that nothing is called by.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(name="--config", value=str(path), limit=error.strerror or str(error)) from error
    except ValueError as error:  # neither UTF-8 nor TOML
        raise ConfigError(name="--config", value=str(path), limit=f"it is not TOML: {error}") from None
    folder = path.resolve().parent
    models = _models(raw.pop("models", {}), folder)
    cases = _parts(Case, raw.pop("cases", []), "cases", folder)
    engines = _parts(Engine, raw.pop("engines", []), "engines", folder)
    head = _part(_Head, raw, str(path), folder)
    comparison = Comparison(
        title=head.title,
        threads=head.threads,
        rounds=head.rounds,
        timeout_s=head.timeout_s,
        models=models,
        cases=cases,
        engines=engines,
        options={name: value for name in _COMMON if (value := getattr(head, name)) is not None},
        text=text,
    )
    _check(comparison)
    return comparison


def _models(raw: object, folder: Path) -> dict[str, dict[str, Path]]:
    if not isinstance(raw, dict) or not all(
        isinstance(formats, dict) and all(isinstance(place, str) for place in formats.values())
        for formats in raw.values()
    ):
        raise ConfigError(
            name="models",
            value=raw,
            limit='it must hold tables of paths, as in [models.x] hf = "path"',
            fix='A name with a dot needs quotes: [models."x-0.5b"]',
        )
    return {name: {key: folder / place for key, place in formats.items()} for name, formats in raw.items()}


def _parts(kind: type[Named], raw: object, where: str, folder: Path) -> tuple[Named, ...]:
    if not isinstance(raw, list) or not raw or not all(isinstance(entry, dict) for entry in raw):
        raise ConfigError(name=where, value=raw, limit=f"there must be at least one [[{where}]]")
    parts = tuple(
        _part(kind, entry, f"{where}[{entry.get('name', number)}]", folder) for number, entry in enumerate(raw)
    )
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(name=f"{where}.name", value=name, limit="it stands twice", fix="Give each its own name")
    return parts


def _part(kind: type[Part], raw: Mapping[str, Any], where: str, folder: Path) -> Part:
    hints, known = get_type_hints(kind), {entry.name: entry for entry in fields(kind)}
    for key in raw:
        if key not in known:
            raise ConfigError(name=where, value=key, limit=f"there is no such key; there are {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, entry in known.items():
        if name in raw:
            values[name] = _value(hints[name], raw[name], f"{where}.{name}", folder)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise ConfigError(name=where, value=sorted(raw), limit=f"the key {name!r} is missing")
    for name in ("python", "server", "script"):
        if "/" in values.get(name, ""):  # a word without is looked for in PATH
            values[name] = str(folder / Path(values[name]).expanduser())
    return kind(**values)


def _value(hint: Any, value: Any, where: str, folder: Path) -> Any:
    """The value in the field's type. Raises ConfigError where it has another."""
    wanted = "a table"
    if hint is Path:
        wanted = "a path"
        if isinstance(value, str):
            return folder / Path(value).expanduser()
    elif hint in (int, int | None):
        wanted = "a whole number of at least 1"
        if type(value) is int and value >= 1:
            return value
    elif hint is float:
        wanted = "a number above 0"
        if type(value) in (int, float) and value > 0:
            return float(value)
    elif hint is str:
        wanted = "a text"
        if isinstance(value, str):
            return value
    elif get_origin(hint) is tuple:
        wanted = "a list of texts"
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(value)
    elif isinstance(value, dict):
        wanted = "a table of texts"
        if hint == Mapping[str, Any] or all(isinstance(word, str) for word in value.values()):
            return value
    raise ConfigError(name=where, value=value, limit=f"it must be {wanted}")


def _check(comparison: Comparison) -> None:
    cases = {case.name for case in comparison.cases}
    for case in comparison.cases:
        _known(case.model, comparison.models, f"cases[{case.name}].model")
    for engine in comparison.engines:
        where = f"engines[{engine.name}]"
        _known(engine.kind, KINDS, f"{where}.kind")
        _known(engine.precision, PRECISIONS, f"{where}.precision")
        for name in engine.cases:
            _known(name, cases, f"{where}.cases")
        for need in KINDS[engine.kind].needs:
            if not any(getattr(engine, word) for word in need.split(" or ")):
                raise ConfigError(name=where, value=engine.kind, limit=f"this kind needs {need}")


def _known(name: str, names: Sequence[str] | Mapping[str, object] | set[str], where: str) -> None:
    if name not in names:
        raise ConfigError(name=where, value=name, limit=f"there is no such one; there are {', '.join(sorted(names))}")
