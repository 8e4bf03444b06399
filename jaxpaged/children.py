"""How Python is started again, for children. [host half: no jax]"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

from jaxpaged.parent import PARENT

PYTHON = (sys.executable, "-P")
"""-P: what lies in the current folder, which may be a stranger's model, is not imported."""


def environment_of(*homes: Path, without: Collection[str] = ()) -> dict[str, str]:
    """This process's environment, and who that is. homes: folders of packages, which are found though no fresh Python
    would look there. without: variables that the child does not get.
    """
    folders = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))]
    looked_at = {Path(folder) for folder in folders}
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*sorted(map(str, {*homes} - looked_at)), *([given] if given else [])])
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, PARENT: str(os.getpid()), **({"PYTHONPATH": path} if path else {})}
