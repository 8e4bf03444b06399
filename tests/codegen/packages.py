"""The compilers that the codegen tests use, in a folder of their own: `python -m codegen.packages` makes it, once.

Never in the environment of the tests: JAX would find the plugins there. Only child processes see the folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from codegen import stubs
from codegen.devices import DEVICES

TRITON = "3.9.0"


def place() -> Path:
    """Where the folder of this Python's and this JAX's packages lies, whether or not it is there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return cache / "jaxpaged" / "codegen" / f"{python}-jax-{version('jax')}-triton-{TRITON}"


def stubs_of(packages: Path) -> Path:
    """The stand-ins for ROCm's libraries."""
    return packages / "rocm-stubs"


def install(folder: Path) -> None:
    """Make the folder, whole or not at all: packages arrive beside it and are moved in one step."""
    if folder.is_dir():
        return
    jax = ".".join(version("jax").split(".")[:3])  # repairs, as 0.12.0.1, do not come with plugins of their own
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
    wanted = [f"jax-rocm7-pjrt=={jax}", f"jax-cuda13-pjrt=={jax}", f"triton=={TRITON}"]
    try:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(made)]
        subprocess.run([*pip, *wanted], check=True)
        stubs.build(made / DEVICES["gfx942"].plugin, stubs_of(made))
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    install(place())
    print(place())
