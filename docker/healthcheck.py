"""Exit status 0 where the server of this container answers on /health/live, 1 where it does not.

http.client rather than urllib: a proxy in the environment is not asked.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 4.0


def alive(port: int) -> bool:
    """Whether GET /health/live on this machine's port is answered with 200 in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if alive(int(os.environ.get("JAXPAGED_HEALTH_PORT", "8000"))) else 1)
