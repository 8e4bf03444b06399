"""The native backend in tests: skipped with the reason where it cannot be had, unless it must be."""

from __future__ import annotations

import os

import pytest

from pallas_kernels.backend import Backend
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
