"""How this server starts Python again, for its children. [no jax]"""

from __future__ import annotations

from pathlib import Path

import jaxpaged
import jaxpaged_server
from jaxpaged.children import environment_of


def child_environment() -> dict[str, str]:
    """This process's without its keys (`environment_of`)."""
    homes = [Path(str(package.__file__)).parents[1] for package in (jaxpaged, jaxpaged_server)]
    return environment_of(*homes)
