"""`jaxpaged bench host`: what a step costs the host, one JSON object for each number of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaged.bench.host import measure
from jaxpaged.commands.bench import flag, require_counts
from jaxpaged.commands.flags import parse
from jaxpaged.commands.terminal import write
from jaxpaged.errors import ConfigError

_LEAST = {"context": 1, "steps": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """Time plan, pack, launch and commit of steps whose rows all decode: what a device must not have to wait for.

    Needs no device and no model; prints microseconds a step.
    """

    rows: tuple[int, ...] = (8, 64, 256)
    """Requests in a step."""
    context: int = 1024
    """Tokens of each request."""
    steps: int = 300
    """Steps that are timed, after as many that are not."""

    def check(self) -> None:
        """Raise ConfigError for a number that cannot be."""
        require_counts(self, _LEAST)
        for rows in self.rows:
            if rows < 1:
                raise ConfigError(name=flag("rows"), value=rows, limit="it must be at least 1")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(HostOptions, argv, prog="jaxpaged bench host")
    options.check()
    for rows in options.rows:
        write(json.dumps(measure(rows, context=options.context, steps=options.steps)) + "\n")
    return 0
