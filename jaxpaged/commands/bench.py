"""`jaxpaged bench throughput`: serve a trace, print one JSON object."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxpaged.bench.trace import random_trace, read_trace
from jaxpaged.commands.flags import EngineFlags, OptionalCount, OptionalPath, Switch, parse
from jaxpaged.commands.terminal import progress_options, start_engine, write
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputOptions:
    """Serve a trace, greedily and to each request's full length, and print the figures as one JSON object.

    The trace is a file (--input), or requests of random tokens.
    """

    input: OptionalPath = None
    """Trace, one JSON object a line: "prompt_ids", "max_tokens", and "arrival_s" (in seconds) where wanted."""
    limit: OptionalCount = None
    """Take only so many requests of the trace."""
    num_requests: int = 32
    """Without --input: how many requests."""
    input_len: int = 256
    """Without --input: tokens of each prompt."""
    output_len: int = 128
    """Without --input: tokens of each answer."""
    request_rate: float = 0.0
    """Without --input: requests a second, at random (Poisson); 0: all at once."""
    quiet: Switch = False
    """No start-up table and no progress."""
    engine: EngineFlags = field(default_factory=EngineConfig)
    """As in `LLM(...)`; names and meanings are vLLM's."""

    def check(self) -> None:
        """Raise ConfigError for a count that cannot be."""
        for name in ("limit", "num_requests", "input_len", "output_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name=f"--{name.replace('_', '-')}", value=value, limit="it must be at least 1")
        if not 0 <= self.request_rate < float("inf"):
            raise ConfigError(name="--request-rate", value=self.request_rate, limit="it must be 0 or more")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    began_s = time.perf_counter()
    options = parse(ThroughputOptions, argv, prog="jaxpaged bench throughput")
    options.check()
    trace = None if options.input is None else read_trace(options.input, limit=options.limit)
    engine = start_engine(options.engine, quiet=options.quiet)
    startup_s = time.perf_counter() - began_s
    if trace is None:
        trace = random_trace(
            num_requests=options.num_requests,
            input_len=options.input_len,
            output_len=options.output_len,
            rate=options.request_rate,
            vocab=engine.model_config.vocab,
            seed=options.engine.seed,
        )
    from jaxpaged.bench.throughput import measure  # starts jax

    row = measure(engine, trace, startup_s=startup_s, progress=progress_options(quiet=options.quiet))
    write(json.dumps(row) + "\n")
    return 0
