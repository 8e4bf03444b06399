"""`jaxpaged bench speculation`: the same prompts with and without guesses, one JSON object."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxpaged.bench.real_text import KINDS, beginnings
from jaxpaged.commands.bench import bench_engine, require_counts, require_finite, write_row
from jaxpaged.commands.flags import EngineFlags, Switch, parse
from jaxpaged.commands.terminal import progress_options
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.speculation.config import speculation_config
from jaxpaged.tiny.corpus import read_corpus

_LEAST = {"num_prompts": 1, "input_len": 1, "output_len": 2, "rounds": 1}
_DEFAULT = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationOptions:
    """Serve real text with and without guesses, in turn, and print acceptance and speed-up as one JSON object.

    Prompts are pieces of Python's standard library: half code, half docstrings. Tokens must be the same both ways.
    """

    num_prompts: int = 200
    """Prompts of both kinds together."""
    input_len: int = 128
    """Tokens of each prompt."""
    output_len: int = 64
    """Tokens of each answer."""
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    """Requests at a time, a case each."""
    rounds: int = 3
    """Pairs of passes in each case."""
    temperature: float = 0.0
    """0 is greedy; above it answers are seeded."""
    quiet: Switch = False
    """No start-up table and no progress."""
    engine: EngineFlags = field(default_factory=EngineConfig)
    """As in `LLM(...)`. Without --speculative-config: n-grams of 2 to 4 tokens, at most 4 guesses."""

    def check(self) -> None:
        """Raise ConfigError for a number that cannot be."""
        require_counts(self, _LEAST)
        require_finite(self, "temperature")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(name="--batch-sizes", value=self.batch_sizes, limit="each must be at least 1")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    began_s = time.perf_counter()
    options = parse(SpeculationOptions, argv, prog="jaxpaged bench speculation")
    options.check()
    config = options.engine
    speculation = config.speculation or speculation_config(_DEFAULT)
    assert speculation is not None
    without = config if speculation.model else replace(config, speculative_config={})
    engine = bench_engine(without, None, quiet=options.quiet)
    from jaxpaged.bench.speculation import measure, sentences  # starts jax

    texts = read_corpus().held_out
    count = -(-options.num_prompts // len(KINDS))
    prompts = {
        kind: beginnings(
            texts, kind, count=count, tokens=options.input_len, seed=config.seed, encode=engine.tokenizer.encode
        )
        for kind in KINDS
    }
    row = measure(
        engine,
        prompts,
        speculation,
        batches=options.batch_sizes,
        rounds=options.rounds,
        output_len=options.output_len,
        temperature=options.temperature,
        startup_s=time.perf_counter() - began_s,
        progress=progress_options(quiet=options.quiet),
    )
    write_row(row, sentences(row), quiet=options.quiet)
    return 0
