"""The native backend in tests: skipped with the reason where it cannot be had, unless it must be."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.native import products
from pallas_kernels.native.build import build
from pallas_kernels.native.library import library


def need(backend: Backend | str) -> None:
    """Skip the test where `backend` is the native one and cannot be had; fail where JAXPAGED_NATIVE_REQUIRED is set."""
    if backend != Backend.NATIVE or not (reason := library().obstacle):
        return
    if os.environ.get("JAXPAGED_NATIVE_REQUIRED"):
        pytest.fail(f"the native backend cannot be had: {reason}")
    pytest.skip(f"the native backend cannot be had: {reason}")


def backends_here() -> list[Backend]:
    """Those of a CPU that can be had, the reference first."""
    return [Backend.REFERENCE, Backend.XLA, *([] if library().obstacle else [Backend.NATIVE])]


def by_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have packed bfloat16 and int8 weights multiplied in vectors on AMX, too, in what is traced from now on."""
    here = library()
    units = {"bfloat16": here.bfloat16 and "AVX512-BF16", "int8": here.int8 and "AVX512-VNNI"}
    monkeypatch.setattr(products, "library", lambda: replace(here, **units))


def share_native(cache: Path) -> Path:
    """Give a cache folder of its own, `$XDG_CACHE_HOME`, what is compiled already: another build shows nothing new."""
    if not library().obstacle:
        target = cache / "jaxpaged" / "native"
        target.mkdir(parents=True, exist_ok=True)
        built = build()
        shutil.copy(built, target / built.name)
    return cache
