"""`jaxpaged bench serve`: send a load to an OpenAI endpoint; a table, and where wanted a JSON file and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jaxpaged.commands.flags import parse
from jaxpaged.commands.terminal import say
from jaxpaged_server.commands.bench_serve_options import BenchServeOptions

_IGNORED: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "--trust-remote-code": (0, "no code of a model is ever run"),
        "--tokenizer-mode": (1, "there is one mode"),
        "--skip-tokenizer-init": (0, "a tokenizer is only read where it is needed"),
        "--no-stream": (0, "files are read at once"),
        "--plot-timeline": (0, "the timeline is part of --html"),
    }
)
"""vLLM's words that are taken and do nothing: how many values each has, and why."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status: 1 where a request was not answered, 130 where it was interrupted."""
    options = parse(BenchServeOptions, _without_ignored(argv), prog="jaxpaged bench serve")
    options.check()
    from jaxpaged_server.commands.bench_serve_run import bench  # imports aiohttp and numpy

    return bench(options)


def _without_ignored(argv: Sequence[str]) -> list[str]:
    """The words that mean something here."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-")
        if name not in _IGNORED:
            kept.append(word)
            continue
        count, why = _IGNORED[name]
        say(f"note: {name} is ignored: {why}")
        for _ in range(0 if equals else count):
            next(words, None)
    return kept
