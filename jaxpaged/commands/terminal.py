"""What the commands show on stderr, so that stdout holds results alone. [no jax]"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxpaged.errors import PromptError

if TYPE_CHECKING:
    from jaxpaged.config import EngineConfig
    from jaxpaged.engine import LLMEngine

_FEW_ROWS = 8
_COMPILING_LATER = (
    "compiling",
    "each step shape when it is first met, which takes seconds; the compile cache keeps it",
)
_LOG_INTERVAL_S = 10.0  # of a progress bar whose reader is a file


def start_engine(config: EngineConfig, *, quiet: bool) -> LLMEngine:
    """Load the model with a progress bar and show the start-up table."""
    from jaxpaged.engine import LLMEngine  # starts jax: only when there is something to compute

    engine = LLMEngine(config, progress=not quiet)
    if not quiet:
        say(table([*engine.describe(), *([] if config.warmup or config.bundle else [_COMPILING_LATER])]))
    return engine


def for_few(config: EngineConfig, num_requests: int) -> EngineConfig:
    """The options for so many requests at once: fewer rows in a step mean fewer step shapes to compile at start.

    No fewer than 8 rows: from there on a row's bits do not depend on the number of rows.
    """
    if config.max_num_seqs is not None or config.bundle is not None or num_requests > _FEW_ROWS:
        return config
    return replace(config, max_num_seqs=_FEW_ROWS)


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, the first as wide as its longest entry."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Results: to stdout, at once; what its encoding cannot say is shown as question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def progress_options(*, quiet: bool) -> dict[str, Any]:
    """Arguments for tqdm: a bar on a terminal, a line now and then in a log, nothing when quiet."""
    interval_s = 0.1 if sys.stderr.isatty() else _LOG_INTERVAL_S
    return {"disable": quiet, "mininterval": interval_s, "maxinterval": max(interval_s, 10.0), "file": sys.stderr}


def checked_text(text: str, name: str = "prompt") -> str:
    """The text itself. Raises PromptError where it is not Unicode (half a surrogate, bytes of another encoding)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            name=name, value=text, limit=f"character {error.start} is not Unicode text", fix="Give it as UTF-8"
        ) from None
    return text
