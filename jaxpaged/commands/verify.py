"""`jaxpaged verify`: a model here beside the same model in transformers, as a certificate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from jaxpaged.commands.flags import EngineFlags, OptionalPath, Switch, parse
from jaxpaged.commands.terminal import progress_options, table, write
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, OutputError
from jaxpaged.weights.folder import is_gguf
from jaxpaged.weights.manifest import is_converted
from jaxpaged.weights.source import localised

DIFFERENT = 1
"""Exit status of a model that is not the one transformers computes."""
Folder = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Compute a model here and in transformers (float32, the oracle), and say how far the two are apart.

    Logits of a text, computed in chunks and single tokens through the paged KV cache in contexts of --max-model-len
    tokens (here by default 2048), and greedy answers; in float32, and in the types that serving would take. Where
    float32 is off by more than the tolerance, the first layer that diverges is named. Needs torch and transformers;
    code in the folder is never run.
    Exit status: 0 passed, 1 not.
    """

    folder: Folder = None
    """Folder of the model in Hugging Face layout (default: --model, the bundled one)."""
    text: OptionalPath = None
    """Text file to score (default: a bundled passage; random token ids where there is no tokenizer)."""
    tokens: int = 512
    """Tokens of the text to score; memory for their logits: 12 bytes x tokens x vocabulary."""
    greedy: int = 64
    """Tokens of each of four greedy answers."""
    tolerance: float = 1e-4
    """What a float32 logit may be off by, of the largest logit."""
    json: OptionalPath = None
    """File to write the certificate to, as JSON."""
    quiet: Switch = False
    """No progress."""
    engine: EngineFlags = field(default_factory=EngineConfig)
    """As in `LLM(...)`; names and meanings are vLLM's."""

    def check(self) -> None:
        """Raise ConfigError for a comparison that says nothing."""
        if self.tokens < 2:
            raise ConfigError(name="--tokens", value=self.tokens, limit="it must be at least 2")
        if self.greedy < 1:
            raise ConfigError(name="--greedy", value=self.greedy, limit="it must be at least 1")
        if not 0 < self.tolerance < math.inf:
            raise ConfigError(name="--tolerance", value=self.tolerance, limit="it must be above 0")

    def config(self) -> EngineConfig:
        """The engine as it would serve. Raises ConfigError where two models are named, and for a bundle."""
        if self.engine.bundle is not None:
            raise ConfigError(
                name="--bundle",
                value=self.engine.bundle,
                limit="this command compiles steps of its own, as large as the text",
                fix="Leave it out",
            )
        if self.folder is None:
            return self.engine
        if self.engine.model not in (EngineConfig().model, self.folder):
            raise ConfigError(
                name="--model", value=self.engine.model, limit=f"the command names {self.folder}, too", fix="Give one"
            )
        return replace(self.engine, model=self.folder)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(VerifyOptions, argv, prog="jaxpaged verify")
    options.check()
    asked = options.config()
    from jaxpaged.verify.oracle import require_packages  # with numpy

    require_packages()  # before anything is downloaded
    config = localised(asked, progress=not options.quiet)
    if is_converted(Path(config.model)) or is_gguf(Path(config.model)):
        limit = "transformers has to read the same files, and it reads folders in Hugging Face layout"
        raise ConfigError(name="MODEL", value=config.model, limit=limit, fix="Give the folder that it was made of")
    from jaxpaged.verify.verification import Verification  # starts jax

    certificate = Verification(
        asked=config,
        text=options.text,
        tokens=options.tokens,
        answer_tokens=options.greedy,
        tolerance=options.tolerance,
        progress=progress_options(quiet=options.quiet),
    ).certify()
    write(table(certificate.as_rows()) + "\n")
    if options.json is not None:
        _save(options.json, json.dumps(certificate.as_json(), indent=2, allow_nan=False) + "\n")
    return 0 if certificate.passed else DIFFERENT


def _save(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            name="--json", value=str(path), limit=error.strerror or str(error), fix="Name a file that can be written"
        ) from error
