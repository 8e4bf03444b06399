"""What `wire.Runs` stand for."""

from __future__ import annotations

from jaxpaged_server.engine_process.wire import Runs


def numbers_of(runs: Runs) -> list[int]:
    numbers: list[int] = []
    for run in runs:
        numbers += [run] if isinstance(run, int) else [run[0]] * run[1]
    return numbers
