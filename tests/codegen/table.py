"""The table of docs/KERNELS.md: what every shipped kernel takes of each GPU. `python -m codegen.table` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from codegen.catalogue import groups
from codegen.children import resources_of
from codegen.kernels import KERNELS
from codegen.packages import TRITON, place
from codegen.upstream import CHIPS

FILE = Path(__file__).parents[2] / "docs" / "KERNELS.md"
COLUMNS = ("case", "kernel", "warps", "stages", "registers", "spilled", "shared", "16-byte loads", "matrix instruction")
DRIFTING = ("registers", "16-byte loads")  # a change of a kernel that leaves its shape alone moves these
_HEAD = f"""# What the kernels take of a GPU

Written by `PYTHONPATH=.:tests python -m codegen.table`, by Triton {TRITON} of the kernels' own Triton IR, on a machine
without a GPU; `pytest -m codegen` fails where a kernel spills, takes more shared memory than there is, or leaves the
matrix units or the 16-byte loads unused where they are due. XLA's compilers have a Triton of their own: the same tests
compile every case with those too. None of it is a measurement of speed.

A case of attention is case-dtype of the KV pool-head dim, then what is not usual: g query heads of a kv head (4), p
positions of a block (16), w window, cap softcap, s rows; a mixed step's rows of one token run the kernel of decode,
which is not repeated. Prefill is listed where it is cut unlike mixed. A case of write is dtype-head dim, rope
dimensions rotated, t tokens; of grouped: m rows, x experts of weights [b, a].

Registers are of a lane, on gfx with the accumulators among them. Spilled: registers on gfx, bytes of stack on sm_90.
Shared: bytes of a program's LDS or shared memory. Loads: instructions of 16 bytes a lane. float32 asks for IEEE
products, for which sm_90 has no matrix instruction.
"""


def rows_of(reports: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of one chip. reports: by case, as `resources_of` gives them. Raises RuntimeError for a failed one."""
    rows = []
    for case, report in reports.items():
        if "error" in report:
            raise RuntimeError(f"{case}: {report['error']}")
        for kernel in report["kernels"]:
            matrix = ", ".join(f"`{_short(name)}`" for name in kernel["matrix"]) or "-"
            numbers = [kernel[key] for key in ("warps", "stages", "registers", "spilled", "shared", "wide_loads")]
            rows.append((case, kernel["kernel"], *(f"{number:,}" for number in numbers), matrix))
    return rows


def _short(instruction: str) -> str:
    parts = [part for part in instruction.split(".") if part not in ("sync", "aligned", "row", "col")]
    return ".".join(parts)


def stable(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows without the columns that drift."""
    kept = [i for i, column in enumerate(COLUMNS) if column not in DRIFTING]
    return [tuple(row[i] for i in kept) for row in rows]


def written(text: str, chip: str) -> list[tuple[str, ...]]:
    """The rows of a chip in the text of the file."""
    section = text.split(f"## {chip}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def render(tables: Mapping[str, list[tuple[str, ...]]]) -> str:
    """The whole file."""
    parts = [_HEAD]
    for chip, rows in tables.items():
        lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, *rows)]
        lines.insert(1, "|" + "---|" * len(COLUMNS))
        parts.append(f"## {chip}\n\nShared memory: at most {CHIPS[chip].shared:,} bytes.\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Compile everything and write the file."""
    batches = [tuple(name for name in names if name in KERNELS) for names in groups().values()]
    jobs = [(chip, batch) for chip in CHIPS for batch in batches if batch]
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = list(pool.map(lambda job: (job[0], resources_of(job[0], job[1], place())), jobs))
    tables = {}
    for chip in CHIPS:
        reports = {name: report for of, batch in results if of == chip for name, report in batch.items()}
        tables[chip] = rows_of({name: reports[name] for name in KERNELS})
    FILE.write_text(render(tables), encoding="utf-8")


if __name__ == "__main__":
    main()
