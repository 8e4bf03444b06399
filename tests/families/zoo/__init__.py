"""Every case of every family: what the files beside this one list as `CASES`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from families.case import Case


def _gather() -> Mapping[str, Case]:
    cases: dict[str, Case] = {}
    for module in sorted(module.name for module in iter_modules(__path__)):
        for case in import_module(f"{__name__}.{module}").CASES:
            assert case.name not in cases, f"{module}: there is another case {case.name!r}"
            cases[case.name] = case
    return MappingProxyType(cases)


CASES = _gather()
"""By name; a file's cases stay together, in its order."""
