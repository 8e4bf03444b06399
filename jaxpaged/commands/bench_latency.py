"""`jaxpaged bench latency`: batches of equal requests, one JSON object."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxpaged.commands.bench import OptionalShape, bench_engine, require_counts, write_row
from jaxpaged.commands.flags import EngineFlags, Switch, parse
from jaxpaged.commands.terminal import progress_options
from jaxpaged.config import EngineConfig

_LEAST = {"batch_size": 1, "input_len": 1, "output_len": 1, "num_iters_warmup": 0, "num_iters": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOptions:
    """Serve batches of equal requests, one batch after the other, and print the times as one JSON object.

    Prompts are random tokens, other ones each time; answers are greedy and of full length.
    """

    batch_size: int = 8
    """Requests of a batch, all at once."""
    input_len: int = 32
    """Tokens of each prompt."""
    output_len: int = 128
    """Tokens of each answer."""
    num_iters_warmup: int = 2
    """Batches that are not counted."""
    num_iters: int = 5
    """Batches that are."""
    random_weights: OptionalShape = None
    """Random weights in the shape of a well-known model (llama-3.1-8b, ...) or a config.json, in place of --model."""
    quiet: Switch = False
    """No start-up table and no progress."""
    engine: EngineFlags = field(default_factory=EngineConfig)
    """As in `LLM(...)`; names and meanings are vLLM's. Without --max-num-seqs: the rows that the batch needs."""

    def check(self) -> None:
        """Raise ConfigError for a number that cannot be."""
        require_counts(self, _LEAST)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    began_s = time.perf_counter()
    options = parse(LatencyOptions, argv, prog="jaxpaged bench latency")
    options.check()
    config = options.engine
    if config.max_num_seqs is None and config.bundle is None:
        config = replace(config, max_num_seqs=max(8, options.batch_size))
    engine = bench_engine(config, options.random_weights, quiet=options.quiet)
    from jaxpaged.bench.latency import measure  # starts jax
    from jaxpaged.bench.rates import device_rates
    from jaxpaged.bench.share import latency_sentence, latency_share

    row = measure(
        engine,
        batch_size=options.batch_size,
        input_len=options.input_len,
        output_len=options.output_len,
        warmup=options.num_iters_warmup,
        iterations=options.num_iters,
        seed=options.engine.seed,
        startup_s=time.perf_counter() - began_s,
        progress=progress_options(quiet=options.quiet),
    )
    row["roofline"] = latency_share(engine, row, device_rates(dtype=engine.config.dtype))
    write_row(row, latency_sentence(row), quiet=options.quiet)
    return 0
