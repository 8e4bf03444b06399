"""`jaxpaged bench make-trace`: requests of random tokens as a file, one JSON object about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpaged.bench.trace import Lengths, random_trace, write_trace
from jaxpaged.commands.bench import require_counts, require_finite
from jaxpaged.commands.flags import OptionalCount, parse
from jaxpaged.commands.terminal import write

_LEAST: dict[str, int] = dict.fromkeys(
    ("num_requests", "input_len", "output_len", "input_len_max", "output_len_max", "vocab"), 1
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeTraceOptions:
    """Write requests of random tokens, one JSON object a line, for `bench throughput --input` and `bench compare`.

    The defaults are lengths as in chats: 32 requests, 6,243 prompt and 4,723 answer tokens. The same options give the
    same trace, and the requests do not depend on the rate.
    """

    output: Path
    """File to write."""
    num_requests: int = 32
    """How many requests."""
    input_len: int = 200
    """Mean tokens of a prompt."""
    output_len: int = 150
    """Mean tokens of an answer."""
    input_len_sigma: float = 0.9
    """Prompts have log-normal lengths with this sigma; 0: all the same."""
    output_len_sigma: float = 0.7
    """The same for answers."""
    input_len_max: OptionalCount = 1024
    """No prompt is longer."""
    output_len_max: OptionalCount = 512
    """No answer is longer."""
    request_rate: float = 0.0
    """Requests a second, at random (Poisson); 0: all at once."""
    vocab: int = 4096
    """Token ids are below it; the default is the bundled tokenizer's, which `bench make-model` writes."""
    seed: int = 0
    """Of lengths, tokens and arrivals."""

    def check(self) -> None:
        """Raise ConfigError for a number that cannot be."""
        require_counts(self, _LEAST)
        require_finite(self, "request_rate", "input_len_sigma", "output_len_sigma")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(MakeTraceOptions, argv, prog="jaxpaged bench make-trace")
    options.check()
    trace = random_trace(
        num_requests=options.num_requests,
        inputs=Lengths(mean=options.input_len, sigma=options.input_len_sigma, most=options.input_len_max),
        outputs=Lengths(mean=options.output_len, sigma=options.output_len_sigma, most=options.output_len_max),
        rate=options.request_rate,
        vocab=options.vocab,
        seed=options.seed,
    )
    write_trace(options.output, trace)
    made = {
        "trace": str(options.output),
        "requests": len(trace),
        "in_tokens": sum(len(request.prompt_ids) for request in trace),
        "out_tokens": sum(request.max_tokens for request in trace),
        "longest": max(len(request.prompt_ids) + request.max_tokens for request in trace),
        "last_arrival_s": trace[-1].arrival_s,
    }
    write(json.dumps(made) + "\n")
    return 0
