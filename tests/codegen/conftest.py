"""What the codegen tests share: the folder of compilers, and each program compiled once a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codegen.catalogue import groups
from codegen.children import compile_all, resources_of
from codegen.packages import place

Report = dict[str, Any]


@pytest.fixture(scope="session")
def packages() -> Path:
    folder = place()
    if not folder.is_dir():
        message = f"no compilers in {folder}: PYTHONPATH=tests python -m codegen.packages brings them"
        if os.environ.get("JAXPAGED_CODEGEN_REQUIRED"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


def _once_a_group(run: Callable[[str, tuple[str, ...], Path], dict[str, Report]], packages: Path):
    group_of = {name: group for group in groups().values() for name in group}
    known: dict[tuple[str, str], Report] = {}

    def report_of(device: str, name: str) -> Report:
        if (device, name) not in known:
            results = run(device, group_of.get(name, (name,)), packages)
            known.update({(device, each): result for each, result in results.items()})
        return known[device, name]

    return report_of


@pytest.fixture(scope="session")
def compiled(packages: Path) -> Callable[[str, str], Report]:
    """Device and name -> the report of XLA's compiler; the first name of a group compiles the group."""
    return _once_a_group(compile_all, packages)


@pytest.fixture(scope="session")
def measured(packages: Path) -> Callable[[str, str], Report]:
    """Chip and name -> the report of upstream Triton, likewise."""
    return _once_a_group(resources_of, packages)
