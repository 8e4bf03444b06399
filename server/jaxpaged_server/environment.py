"""What the environment says of options that the command line leaves open.

`JAXPAGED_X` counts before `VLLM_X`. Two of vLLM's names are not read: VLLM_PORT and VLLM_HOST_IP are the addresses at
which its own processes meet, not those of the API, and would open a server that was to be closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One that is set: its name, the flag that it stands for, the flag's value."""

    name: str
    flag: str
    value: str


_FLAGS = (
    ("api-key", "API_KEY", True),
    ("port", "PORT", False),
    ("host", "HOST_IP", False),
    ("log-level", "LOGGING_LEVEL", True),
    ("keep-alive-s", "HTTP_TIMEOUT_KEEP_ALIVE", True),
    ("log-stats-interval", "LOG_STATS_INTERVAL", True),
    ("compile-cache", "CACHE_ROOT", True),
)
"""Flag, variable without its prefix, whether vLLM's counts."""


def variables(environ: Mapping[str, str]) -> tuple[Variable, ...]:
    """Those that are set to something."""
    found: list[Variable] = []
    for flag, suffix, shared in _FLAGS:
        for prefix in ("JAXPAGED_", "VLLM_") if shared else ("JAXPAGED_",):
            name = prefix + suffix
            value = environ.get(name, "").strip()
            if not value or (flag == "port" and "://" in value):  # Kubernetes sets it for a service named jaxpaged
                continue
            found.append(Variable(name=name, flag=flag, value=_meaning(name, value)))
            break
    return tuple(found)


def _meaning(name: str, value: str) -> str:
    if name == "JAXPAGED_CACHE_ROOT":
        return str(Path(value).expanduser() / "programs")
    if name == "VLLM_CACHE_ROOT":  # a folder that vLLM's own caches lie in
        return str(Path(value).expanduser() / "jaxpaged" / "programs")
    return value
