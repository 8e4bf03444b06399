"""The table of docs/FAMILIES.md: how near every family is to transformers. `python -m families.table` writes it, or,
with names of architectures, their rows.

Errors are told as bounds, with room for another machine's arithmetic, so that the file changes when something does.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from families.case import Case
from families.zoo import CASES

FILE = Path(__file__).parents[2] / "docs" / "FAMILIES.md"
COLUMNS = (
    *("architecture", "model type", "configs", "of them old", "reference", "XLA", "engine", "bfloat16"),
    *("greedy tokens", "ties", "features"),
)
TOKENS = 320
"""Greedy tokens of a case: 64 after each of five prompts."""
_FLOAT32 = ((1e-5, 3e-5, 1e-4), 2.0)  # bounds, and how many times what was found here must fit below one
_BFLOAT16 = ((0.01, 0.02, 0.03, 0.05, 0.1), 1.5)
_HEAD = """# Families, and how near each is to transformers

Written by `PYTHONPATH=.:server:tests python -m families.table`; `pytest -m families` computes all of it again and fails
where a case is off by more than its row says, or a row is not what the cases are. To add a family's cases: a file in
`tests/families/zoo`.

Every config is a small model of random weights in which every parameter shows, written as a model folder and read from
there by transformers {transformers} (float32, eager attention) and by this engine. Old: its config.json is as
transformers 4 wrote it. Contexts go past every window and past the context that a rope was trained for.

Reference, XLA: the largest error of a float32 logit, relative to the largest logit, computed by that backend in chunks
and single tokens over a paged pool whose unused slots hold NaN. Engine: the same of every token that the whole engine
computed on a CPU (native kernels where they can be had), while five prompts were answered greedily, batched, in chunks,
one beginning from the prefix cache. bfloat16: the mean error of a logit with weights and KV cache of that type,
relative to the logits' standard deviation. Greedy tokens: how many of those answers' tokens are the ones transformers
would take, or lie within 1e-4 of them; ties: how many of the latter there were where this was written.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was found for one case, or the worst of several. equal, ties: of tokens, the greedy ones."""

    reference: float
    xla: float
    engine: float
    bfloat16: float
    tokens: int
    equal: int
    ties: int

    @classmethod
    def worst(cls, proofs: Sequence[Proof]) -> Proof:
        """Of all: the largest errors, the sums of tokens."""
        errors = {name: max(getattr(p, name) for p in proofs) for name in ("reference", "xla", "engine", "bfloat16")}
        sums = {name: sum(getattr(p, name) for p in proofs) for name in ("tokens", "equal", "ties")}
        return cls(**errors, **sums)


def prove(name: str, cache: Path) -> Proof:
    """All of one case."""
    from families.evidence import Evidence

    from pallas_kernels.backend import Backend

    with tempfile.TemporaryDirectory() as folder:
        evidence = Evidence(CASES[name], Path(folder), cache=cache)
        greedy = evidence.greedy()
        assert greedy.wrong == (), f"{name}: {greedy.wrong}"
        return Proof(
            reference=evidence.paged_error(Backend.REFERENCE, block_size=16),
            xla=evidence.paged_error(Backend.XLA, block_size=64),
            engine=greedy.error,
            bfloat16=evidence.bfloat16_error,
            tokens=sum(map(len, evidence.run().tokens)),
            equal=greedy.equal,
            ties=len(greedy.ties),
        )


def by_architecture(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """The cases of each architecture, in the zoo's order."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.architecture, []).append(case)
    return found


def facts_of(cases: Sequence[Case]) -> dict[str, str]:
    """What a row says before anything is computed."""
    import transformers

    architecture = cases[0].architecture
    tokens = f"{len(cases) * TOKENS:,}"
    return {
        "architecture": architecture,
        "model type": getattr(transformers, architecture).config_class.model_type,
        "configs": str(len(cases)),
        "of them old": str(sum(case.old_style for case in cases)),
        "greedy tokens": f"{tokens} of {tokens}",
        "features": ", ".join(dict.fromkeys(feature for case in cases for feature in case.features)) or "-",
    }


def row_of(cases: Sequence[Case], proof: Proof) -> tuple[str, ...]:
    """One row of the file."""
    cells = facts_of(cases) | {
        "reference": _bound(proof.reference, *_FLOAT32),
        "XLA": _bound(proof.xla, *_FLOAT32),
        "engine": _bound(proof.engine, *_FLOAT32),
        "bfloat16": _bound(proof.bfloat16, *_BFLOAT16),
        "greedy tokens": f"{proof.equal + proof.ties:,} of {proof.tokens:,}",
        "ties": f"{proof.ties}",
    }
    return tuple(cells[column] for column in COLUMNS)


def _bound(value: float, bounds: Sequence[float], room: float) -> str:
    limit = next((bound for bound in bounds if room * value <= bound), bounds[-1])
    return f"< {limit:g}".replace("e-0", "e-")


def limit_of(cell: str) -> float:
    """The number in a cell of bounds."""
    return float(cell.removeprefix("< "))


def written(text: str) -> dict[str, dict[str, str]]:
    """The rows of the file's text, by architecture: column -> cell."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in cells}


def render(rows: Iterable[tuple[str, ...]], *, transformers: str) -> str:
    """The whole file."""
    lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, *rows)]
    lines.insert(1, "|" + "---|" * len(COLUMNS))
    return _HEAD.format(transformers=transformers) + "\n" + "\n".join(lines) + "\n"


def rows_of(proofs: Mapping[str, Proof], *, kept: Mapping[str, dict[str, str]]) -> list[tuple[str, ...]]:
    """proofs: by name of the case. kept: rows of architectures that were not computed, see `written`."""
    return [
        row_of(cases, Proof.worst([proofs[case.name] for case in cases]))
        if all(case.name in proofs for case in cases)
        else tuple(kept[architecture].values())
        for architecture, cases in sorted(by_architecture(CASES.values()).items())
        if architecture in kept or cases[0].name in proofs
    ]


def main(architectures: Sequence[str]) -> None:
    """Compute these architectures, or all, two cases at a time, and write the file; other rows stay as they are."""
    from importlib.metadata import version

    for name, value in {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}.items():
        os.environ.setdefault(name, value)
    wanted = [name for name, case in CASES.items() if not architectures or case.architecture in architectures]
    kept = written(FILE.read_text(encoding="utf-8")) if architectures and FILE.exists() else {}
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool,
    ):
        started = {name: pool.submit(prove, name, Path(cache)) for name in wanted}
        proofs = {}
        for name, result in started.items():
            proofs[name] = result.result()
            sys.stderr.write(f"{name}: {proofs[name]}\n")
    FILE.write_text(render(rows_of(proofs, kept=kept), transformers=version("transformers")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
