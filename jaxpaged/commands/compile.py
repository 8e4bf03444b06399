"""`jaxpaged compile`: write a bundle of compiled programs, so that engines of this kind of device start at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from jaxpaged.commands.flags import EngineFlags, Switch, parse
from jaxpaged.commands.terminal import say, start_engine
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError

Folder = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Compile every program of a model and write them to a folder; run it on the kind of device they are for.

    An engine started with --bundle BUNDLE traces and compiles nothing. It must have the same model, the same versions
    and the same kind of device; sizes that it leaves open are the bundle's. A bundle is code: take none from strangers.
    """

    folder: Folder = None
    """Folder of the model in Hugging Face layout (default: --model, the bundled one)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="BUNDLE")]
    """Folder to write; a bundle that is there is replaced."""
    quiet: Switch = False
    """No start-up table and no progress."""
    engine: EngineFlags = field(default_factory=EngineConfig)
    """As in `LLM(...)`; names and meanings are vLLM's."""

    def config(self) -> EngineConfig:
        """The engine to compile for. Raises ConfigError for options that do not go together."""
        if self.engine.bundle is not None:
            raise ConfigError(
                name="--bundle", value=self.engine.bundle, limit="this command makes bundles", fix="Leave it out"
            )
        config = replace(self.engine, warmup=True, early_start=False)
        if self.folder is None:
            return config
        if config.model not in (EngineConfig().model, self.folder):
            raise ConfigError(
                name="--model", value=config.model, limit=f"the command names {self.folder}, too", fix="Give one"
            )
        return replace(config, model=self.folder)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(CompileOptions, argv, prog="jaxpaged compile")
    config = options.config()
    from jaxpaged.bundle import draft_folder, write_bundle  # with jax
    from jaxpaged.warmup import no_compile_cache

    with no_compile_cache():
        engine = start_engine(config, quiet=options.quiet)
    places = [(options.output, engine.runner)]
    if engine.draft is not None:
        places.append((draft_folder(options.output), engine.draft.runner))
    count = size = 0
    for folder, runner in places:
        size += write_bundle(folder, runner.programs, fingerprint=runner.fingerprint, config=runner.config)
        count += len(runner.programs)
    if not options.quiet:
        say(f"{count} programs, {size / 1e6:.1f} MB: {options.output}")
    return 0
