"""One case at a time: what is computed for it serves all tests of the case, in one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from families.evidence import Evidence
from families.zoo import CASES
from inherited import PROGRAMS


@pytest.fixture(scope="session")
def compile_cache() -> Path:
    """The run's folder of compiled programs, of all its processes: samplers are alike in all cases."""
    return Path(os.environ[PROGRAMS])


@pytest.fixture(scope="session", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in CASES])
def evidence(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, compile_cache: Path) -> Evidence:
    return Evidence(CASES[request.param], tmp_path_factory.mktemp(request.param), cache=compile_cache)
