"""The scripts of this folder as modules, for the tests that need no GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script by its name, which is nobody else's module afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield import_module
    for path in FOLDER.glob("*.py"):
        if not path.stem.startswith(("test_", "conftest")):
            sys.modules.pop(path.stem, None)
