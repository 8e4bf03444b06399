"""Numbers that come often in a row, in short. [no jax]"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpaged_server.engine_process.wire import Runs


def runs_of(numbers: Sequence[int] | bytes) -> Runs:
    """See `Runs`. Never longer in JSON than the numbers themselves."""
    array = np.frombuffer(numbers, np.uint8) if isinstance(numbers, bytes) else np.asarray(numbers, np.int32)
    if not len(array):
        return []
    starts = np.concatenate(([0], np.flatnonzero(np.diff(array)) + 1))
    lengths = np.diff(starts, append=len(array))
    runs: Runs = []
    for number, length in zip(array[starts].tolist(), lengths.tolist(), strict=True):
        if length > 2:
            runs.append((number, length))
        else:
            runs += [number] * length
    return runs
