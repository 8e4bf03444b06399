"""`jaxpaged bench throughput`: serve a trace, print one JSON object."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxpaged.bench.trace import Lengths, random_trace, read_trace
from jaxpaged.commands.bench import OptionalShape, bench_engine, require_counts, require_finite, write_row
from jaxpaged.commands.flags import EngineFlags, OptionalCount, OptionalPath, Switch, parse
from jaxpaged.commands.terminal import progress_options
from jaxpaged.config import EngineConfig

_LEAST: dict[str, int] = dict.fromkeys(
    ("limit", "max_concurrency", "num_requests", "input_len", "output_len", "input_len_max", "output_len_max"), 1
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputOptions:
    """Serve a trace, greedily and to each request's full length, and print the figures as one JSON object.

    The trace is a file (--input), or requests of random tokens.
    """

    input: OptionalPath = None
    """Trace, one JSON object a line: "prompt_ids", "max_tokens", and "arrival_s" (in seconds) where wanted."""
    limit: OptionalCount = None
    """Take only so many requests of the trace."""
    max_concurrency: OptionalCount = None
    """So many requests under way at most, 1: one after the other; a request's waiting begins when it is let in."""
    num_requests: int = 32
    """Without --input: how many requests."""
    input_len: int = 256
    """Without --input: tokens of each prompt."""
    output_len: int = 128
    """Without --input: tokens of each answer."""
    input_len_sigma: float = 0.0
    """Without --input: prompts of log-normal lengths with this sigma and the mean --input-len (chats: about 0.9)."""
    output_len_sigma: float = 0.0
    """Without --input: the same for answers (chats: about 0.7)."""
    input_len_max: OptionalCount = None
    """Without --input: no prompt is longer."""
    output_len_max: OptionalCount = None
    """Without --input: no answer is longer."""
    request_rate: float = 0.0
    """Without --input: requests a second, at random (Poisson); 0: all at once."""
    random_weights: OptionalShape = None
    """Random weights in the shape of a well-known model (llama-3.1-8b, ...) or a config.json, in place of --model."""
    quiet: Switch = False
    """No start-up table and no progress."""
    engine: EngineFlags = field(default_factory=EngineConfig)
    """As in `LLM(...)`; names and meanings are vLLM's."""

    def check(self) -> None:
        """Raise ConfigError for a number that cannot be."""
        require_counts(self, _LEAST)
        require_finite(self, "request_rate", "input_len_sigma", "output_len_sigma")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    began_s = time.perf_counter()
    options = parse(ThroughputOptions, argv, prog="jaxpaged bench throughput")
    options.check()
    trace = None if options.input is None else read_trace(options.input, limit=options.limit)
    engine = bench_engine(options.engine, options.random_weights, quiet=options.quiet)
    startup_s = time.perf_counter() - began_s
    if trace is None:
        trace = random_trace(
            num_requests=options.num_requests,
            inputs=Lengths(mean=options.input_len, sigma=options.input_len_sigma, most=options.input_len_max),
            outputs=Lengths(mean=options.output_len, sigma=options.output_len_sigma, most=options.output_len_max),
            rate=options.request_rate,
            vocab=engine.model_config.vocab,
            seed=options.engine.seed,
        )
    from jaxpaged.bench.rates import device_rates  # starts jax
    from jaxpaged.bench.share import throughput_sentence, throughput_share
    from jaxpaged.bench.throughput import measure

    row = measure(
        engine,
        trace,
        startup_s=startup_s,
        progress=progress_options(quiet=options.quiet),
        max_concurrency=options.max_concurrency,
    )
    if row["mode"] == "offline" and row["max_concurrency"] is None and row["out_tokens"]:
        row["roofline"] = throughput_share(engine, row, device_rates(dtype=engine.config.dtype))
    write_row(row, throughput_sentence(row), quiet=options.quiet)
    return 0
