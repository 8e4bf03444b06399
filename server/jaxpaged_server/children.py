"""How this server starts Python again, for its children. [no jax]"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path

import jaxpaged
import jaxpaged_server
from jaxpaged_server.environment import KEY_VARIABLES
from jaxpaged_server.parent import PARENT

PYTHON = (sys.executable, "-P")
"""-P: what lies in the current folder, which may be a stranger's model, is not imported."""


def child_environment() -> dict[str, str]:
    """This process's without its keys; and who that is, and where these packages are found though no fresh Python would
    look there."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))]
    looked_at = {Path(folder) for folder in folders}
    homes = {Path(str(package.__file__)).parents[1] for package in (jaxpaged, jaxpaged_server)} - looked_at
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*sorted(map(str, homes)), *([given] if given else [])])
    kept = {name: value for name, value in os.environ.items() if name not in KEY_VARIABLES}
    return {**kept, PARENT: str(os.getpid()), **({"PYTHONPATH": path} if path else {})}
