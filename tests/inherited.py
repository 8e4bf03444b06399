"""What a process inherits that is to find its programs where a user's would, or to compile them."""

from __future__ import annotations

import os

PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
"""Names the run's folder of compiled programs: see conftest.py."""


def inherited() -> dict[str, str]:
    """This process's environment without that folder."""
    return {name: value for name, value in os.environ.items() if name != PROGRAMS}
