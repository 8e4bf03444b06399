"""How much of a stretch of decode steps the GPU did nothing, from a profiler's trace of the device's streams."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

Span = tuple[float, float]


def idle_share(engine: Any, *, rows: int, input_len: int, output_len: int) -> dict[str, Any]:
    """Serve a batch and look at its second half, where all rows decode. value: idle over wall time, None without a GPU.

    Beside it: kernels launched one by one and graphs launched whole, by the names of the driver's calls.
    """
    from jaxpaged.request import SamplingParams

    draws = random.Random(7)
    params = SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True)
    for _ in range(rows):
        engine.submit([draws.randrange(engine.model_config.vocab) for _ in range(input_len)], params)
    first = engine.metrics.output_tokens
    while engine.has_unfinished and engine.metrics.output_tokens - first < rows * output_len // 2:
        engine.step()
    before = engine.metrics.steps
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            while engine.has_unfinished:
                engine.step()
        planes = list(_planes(Path(folder)))
    steps = engine.metrics.steps - before
    spans = [span for name, plane in planes if name.startswith("/device:GPU") for span in _stream_spans(plane)]
    calls = [event.name for name, plane in planes if "host" in name for line in plane.lines for event in line.events]
    launches = {
        "kernel_launches": sum("LaunchKernel" in call for call in calls),
        "graph_launches": sum("GraphLaunch" in call for call in calls),
    }
    if not spans:
        return {"value": None, "steps": steps, "note": "the trace shows no GPU stream", **launches}
    wall_ns = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return {"value": 1 - busy_ns(spans) / wall_ns, "steps": steps, "wall_ms": wall_ns / 1e6, **launches}


def busy_ns(spans: Iterable[Span]) -> float:
    """Length of the union of spans (begin, end)."""
    total = 0.0
    reached = float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _planes(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            yield plane.name, plane


def _stream_spans(plane: Any) -> Iterator[Span]:
    for line in plane.lines:
        if line.name.startswith("Stream"):
            for event in line.events:
                yield event.start_ns, event.start_ns + event.duration_ns
