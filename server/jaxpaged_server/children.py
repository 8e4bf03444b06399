"""How this server starts Python again, for its children. [no jax]"""

from __future__ import annotations

import jaxpaged
import jaxpaged_server
from jaxpaged.children import environment_of
from jaxpaged_server.environment import KEY_VARIABLES


def child_environment() -> dict[str, str]:
    """This process's without its keys (`environment_of`)."""
    return environment_of(jaxpaged, jaxpaged_server, without=KEY_VARIABLES)
