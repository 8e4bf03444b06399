"""What is shipped imports what pyproject.toml declares: a package that another one brings may be gone tomorrow."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = {"jaxpaged", "pallas_kernels", "jaxpaged_server"}
OF_DEVELOPERS = ("test", "dev")
NOT_LOOKED_AT = ("jaxpaged/bench/peers/", "jaxpaged/tiny/train.py")
"""Run in environments of their own: the peers', and that in which the bundled model was trained."""


def declared() -> set[str]:
    """Distributions that a user may have asked for, in the names' common form."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for name, group in project["optional-dependencies"].items():
        lines += group if name not in OF_DEVELOPERS else []
    return {common(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines}


def common(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """Top-level names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


def test_every_import_is_of_a_declared_package() -> None:
    allowed, known = declared(), packages_distributions()
    strange: dict[str, set[str]] = {}
    for folder in ("jaxpaged", "pallas_kernels", "server"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            names = imported(path) - OURS - set(sys.stdlib_module_names)
            bad = {name for name in names if not allowed & set(map(common, known.get(name, [name])))}
            if bad and not place.startswith(NOT_LOOKED_AT):
                strange[place] = bad
    assert strange == {}
