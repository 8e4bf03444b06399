"""The parts of `run.py` that measure: `parts.py NAME FILE [--quick]` appends rows of JSON to FILE."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

BEGAN_S = time.monotonic()
SILENT = {"disable": True}
Rows = Generator[dict[str, Any], None, None]


def kernels(*, quick: bool) -> Rows:
    """Every case of `bench kernels`, those that goals ask for first."""
    from jaxpaged.bench.cases import chosen_cases
    from jaxpaged.bench.kernels import measure
    from jaxpaged.bench.programs import machine_dtype
    from jaxpaged.bench.rates import device_rates
    from pallas_kernels.backend import choose_backend
    from pallas_kernels.target import current_target

    rates = device_rates(dtype=machine_dtype())
    yield {"measured": str(rates.measured), "sheet": str(rates.sheet)}
    asked = ("b64-ctx4096", "b1-ctx32768", "b16-ctx", "prefill-8192", "rows", "tokens8", "tokens64")
    cases = sorted(chosen_cases(quick=quick, only=None), key=lambda case: not any(a in case.name for a in asked))
    backend, _ = choose_backend(current_target().platform)
    yield from measure(cases, backend, rates, progress=SILENT)


def engine(*, quick: bool) -> Rows:
    """E1 to E5 and E7 on one engine of random weights."""
    from idle import idle_share

    from jaxpaged.bench import latency, throughput
    from jaxpaged.bench.rates import device_rates
    from jaxpaged.bench.share import latency_share, throughput_share
    from jaxpaged.bench.trace import Lengths, random_trace
    from jaxpaged.roofline import prefill_seconds

    served = _engine(quick=quick)
    rates = device_rates(dtype=served.config.dtype)
    length, answer = (24, 8) if quick else (960, 128)
    vocab = served.model_config.vocab
    for name, rows in (("E1", 1), ("E2", 4 if quick else 64), ("E3", 8 if quick else 256)):
        row = latency.measure(
            served,
            batch_size=rows,
            input_len=length,
            output_len=answer,
            warmup=1,
            iterations=2,
            seed=rows,
            startup_s=served.startup_s,
            progress=SILENT,
        )
        row["roofline"] = latency_share(served, row, rates)
        yield {"id": name, "value": row["roofline"]["tpot_share"], "row": row}

    def offline(count: int, num_input: int, num_output: int, seed: int) -> dict[str, Any]:
        inputs, outputs = Lengths(mean=num_input), Lengths(mean=num_output)
        trace = random_trace(num_requests=count, inputs=inputs, outputs=outputs, rate=0, vocab=vocab, seed=seed)
        return throughput.measure(served, trace, startup_s=served.startup_s, progress=SILENT)

    long = 48 if quick else 4096
    offline(2, long, 1, 1)  # compiles
    row = offline(2 if quick else 16, long, 1, 2)
    least_s = prefill_seconds(
        served.model_config, rates.roofline, tokens=row["in_tokens"], length=long, dtype=served.config.dtype
    )
    yield {"id": "E5", "value": least_s / row["total_s"], "row": row}
    yield {"id": "E7", **idle_share(served, rows=4 if quick else 64, input_len=length, output_len=answer)}
    row = offline(8 if quick else 256, 24 if quick else 1000, 8 if quick else 1000, 3)
    row["roofline"] = throughput_share(served, row, rates)
    yield {"id": "E4", "value": row["roofline"]["share"], "row": row}


def start(*, quick: bool) -> Rows:
    """E10: from the start of the process to the first token, programs compiled by an earlier part."""
    from jaxpaged.request import SamplingParams

    served = _engine(quick=quick)
    served.submit([1] * (24 if quick else 960), SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))
    while served.has_unfinished:
        served.step()
    yield {"id": "E10", "value": time.monotonic() - BEGAN_S}


def transformers(*, quick: bool) -> Rows:
    """E8: the same weights and requests through transformers."""
    from compare_transformers import compare

    yield from compare(shape="tiny-llama" if quick else "llama-3.2-1b", rounds=1 if quick else 2, quick=quick)


def server(*, quick: bool) -> Rows:
    """E6: the same weights and requests through the HTTP server, from many clients at once."""
    from compare_server import compare

    yield from compare(rounds=2 if quick else 5, quick=quick)


def scan(*, quick: bool) -> Rows:
    """The dots of a decode step's layers in a scan over stacked weights, and unrolled."""
    import statistics

    import jax
    import jax.numpy as jnp
    from jax import Array, lax

    from jaxpaged.bench.programs import machine_dtype
    from jaxpaged.bench.timing import round_seconds
    from pallas_kernels.linear import linear

    layers, size, rows = (4, 256, 8) if quick else (32, 8192, 16)
    keys = jax.random.split(jax.random.key(0), layers)
    weights = [(jax.random.normal(key, (size, size)) * size**-0.5).astype(machine_dtype()) for key in keys]
    x = jax.random.normal(jax.random.key(1), (rows, size))

    def unrolled(x: Array, weights: list[Array]) -> Array:
        for w in weights:
            x = linear(x, w)
        return x

    def scanned(x: Array, stacked: Array) -> Array:
        return lax.scan(lambda x, w: (linear(x, w), None), x, stacked)[0]

    found: dict[str, float] = {}
    forms: dict[str, tuple[Callable[..., Array], Any]] = {
        "unrolled": (unrolled, weights),
        "scanned": (scanned, jnp.stack(weights)),
    }
    for name, (body, operands) in forms.items():
        spent = round_seconds(body, x + 0, operands, rounds=10, repeats=5)
        found[f"{name}_ms"] = statistics.median(spent) * 1e3
    gb = layers * size * size * weights[0].dtype.itemsize / 1e9
    yield {"id": "scan", "layers": layers, "size": size, "rows": rows, "weights_gb": gb, **found}


def _engine(*, quick: bool) -> Any:
    """Llama-3.1-8B, or a small one; step shapes are compiled when first met, since only some are needed here."""
    from jaxpaged.bench.random_engine import random_engine
    from jaxpaged.config import EngineConfig

    options = EngineConfig(warmup=False, max_model_len=8192, max_num_seqs=256, max_num_batched_tokens=8192)
    if quick:
        options = replace(options, max_model_len=128, max_num_seqs=8, max_num_batched_tokens=128)
    return random_engine(options, "tiny-llama" if quick else "llama-3.1-8b")


PARTS = {part.__name__: part for part in (kernels, engine, start, server, transformers, scan)}


def main(name: str, path: str, *, quick: bool) -> None:
    """Run one part; every row is on the disk as soon as it is known."""
    with Path(path).open("a", encoding="utf-8") as file, closing(PARTS[name](quick=quick)) as rows:
        for row in rows:
            file.write(json.dumps({"part": name, "quick": quick, **_device(), **row}) + "\n")
            file.flush()
            print(f"  {time.monotonic() - BEGAN_S:6.1f} s  {_shown(row)}", flush=True)


def _device() -> dict[str, str]:
    """Asked for with the first row: asking makes JAX take its share of a GPU, which is for the part to say."""
    import jax

    device = jax.devices()[0]
    return {"platform": device.platform, "device": device.device_kind}


def _shown(row: dict[str, Any]) -> str:
    names = ("id", "value", "op", "case", "time_us", "share_sheet", "share_measured", "error", "measured", "note")
    names += ("out_tok_s", "front_core_share")
    shown = {name: row[name] for name in names if name in row} or row
    return " ".join(f"{name}={value}" for name, value in shown.items())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], quick="--quick" in sys.argv[3:])
