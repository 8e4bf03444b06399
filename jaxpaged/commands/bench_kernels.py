"""`jaxpaged bench kernels`: time the device ops, or search how to cut them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaged.bench.cases import chosen_cases
from jaxpaged.commands.flags import OptionalPath, OptionalText, Switch, parse
from jaxpaged.commands.terminal import progress_options, say, write
from jaxpaged.config import AttentionBackend
from jaxpaged.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsOptions:
    """Time every device op at the shapes of real models: one JSON object a line.

    Each comes with its bandwidth and rate, and its share of what this device was measured to copy and multiply.
    """

    only: OptionalText = None
    """Only the cases whose op/name holds this text, such as "ragged_attention/decode" or "int8"."""
    quick: Switch = False
    """Small shapes, for any machine."""
    backend: AttentionBackend = "auto"
    """Which implementations are timed."""
    tune: Switch = False
    """Search tiles, warps and stages of the ops that have them (not linear) and write a tuning table; needs a GPU."""
    output: OptionalPath = None
    """With --tune: where the table is written (default: the user's, which the engine reads)."""
    quiet: Switch = False
    """No progress."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status: 1 where a case could not be timed."""
    options = parse(KernelsOptions, argv, prog="jaxpaged bench kernels")
    cases = chosen_cases(quick=options.quick, only=options.only)
    if options.output is not None and not options.tune:
        raise ConfigError(name="--output", value=str(options.output), limit="only --tune writes a file", fix="Drop it")
    from jaxpaged.bench.kernels import measure  # starts jax
    from jaxpaged.bench.programs import machine_dtype
    from jaxpaged.bench.rates import device_rates
    from jaxpaged.bench.tune import require_gpu, tunable, tune
    from jaxpaged.tuning import tuning_path, user_tuning
    from pallas_kernels.backend import choose_backend
    from pallas_kernels.target import current_target

    if options.tune:
        require_gpu(options.backend)
        cases = tunable(cases)
    if not options.quick and current_target().platform == "cpu":
        raise ConfigError(
            name="--quick",
            value=False,
            limit="the shapes of 8B models are for a GPU, and this machine has none",
            fix="Give --quick for small ones",
        )
    try:
        backend, _ = choose_backend(current_target().platform, options.backend)
    except ValueError as error:
        raise ConfigError(name="--backend", value=options.backend, limit=str(error), fix="Use auto") from error
    rates = device_rates(dtype=machine_dtype())
    progress = progress_options(quiet=options.quiet)
    failed = total = 0
    if options.tune:
        rows = tune(cases, backend, rates, path=options.output or tuning_path(), progress=progress)
    else:
        rows = measure(cases, backend, rates, progress=progress, tuning=user_tuning())
    for row in rows:
        total += 1
        failed += "error" in row
        write(json.dumps(row) + "\n")
    if failed:
        say(f"{failed} of {total} rows hold an error instead of times")
    return int(failed > 0)
