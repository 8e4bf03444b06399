"""The subcommands of `jaxpaged`: their names, and what happens to an error on its way out.

Each lives in a module of its own with `main(argv) -> exit status`, imported when it is run. [no jax]
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from jaxpaged.errors import JaxPagedError

FAILED = 2
"""Exit status where the command could not do what was asked."""
INTERRUPTED = 130
_PIPE_CLOSED = 141  # what the shell reports of any tool whose reader went away


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand: the words that call it, one line of help, the module that does it."""

    words: tuple[str, ...]
    summary: str
    module: str


COMMANDS = (
    Command(
        words=("generate",),
        summary="complete prompts, or a file of them",
        module="jaxpaged.commands.generate",
    ),
    Command(words=("chat",), summary="talk with a model in the terminal", module="jaxpaged.commands.chat"),
    Command(
        words=("compile",),
        summary="write a model's compiled programs to a folder, for engines that start at once",
        module="jaxpaged.commands.compile",
    ),
    Command(
        words=("convert",),
        summary="write a model's weights as they are held, for starts that only read them",
        module="jaxpaged.commands.convert",
    ),
    Command(
        words=("verify",),
        summary="compare a model here with the same model in transformers; a certificate, or the layer that diverges",
        module="jaxpaged.commands.verify",
    ),
    Command(
        words=("plan",),
        summary="say what of a model fits on a device, and how fast it would serve a trace, with no such device here",
        module="jaxpaged.commands.plan",
    ),
    Command(
        words=("bench", "throughput"),
        summary="serve a trace as fast as possible and print the figures as JSON",
        module="jaxpaged.commands.bench_throughput",
    ),
    Command(
        words=("bench", "latency"),
        summary="time batches of equal requests, from the prompt to the last token, as JSON",
        module="jaxpaged.commands.bench_latency",
    ),
    Command(
        words=("bench", "speculation"),
        summary="serve real text with and without guessed tokens, in turn; acceptance and speed-up as JSON",
        module="jaxpaged.commands.bench_speculation",
    ),
    Command(
        words=("bench", "kernels"),
        summary="time the device ops against what the device can do, or tune them for it",
        module="jaxpaged.commands.bench_kernels",
    ),
    Command(
        words=("bench", "host"),
        summary="time what a step costs the host, with no device behind it, as JSON",
        module="jaxpaged.commands.bench_host",
    ),
    Command(
        words=("bench", "accuracy"),
        summary="score a text with a smaller KV cache and print how far the logits move as JSON",
        module="jaxpaged.commands.bench_accuracy",
    ),
    Command(
        words=("bench", "compare"),
        summary="other engines and this one on the same model and trace, in turn; a page of the results",
        module="jaxpaged.commands.bench_compare",
    ),
    Command(
        words=("bench", "make-model"),
        summary="write a model folder of random weights that any engine can read",
        module="jaxpaged.commands.bench_make_model",
    ),
    Command(
        words=("bench", "make-trace"),
        summary="write a trace of requests for `bench throughput` and `bench compare`",
        module="jaxpaged.commands.bench_make_trace",
    ),
    Command(
        words=("doctor",),
        summary="look at versions, devices, folders and kernels; say what to mend",
        module="jaxpaged.commands.doctor",
    ),
)


def run(command: Command, argv: Sequence[str]) -> int:
    """Run a subcommand; returns its exit status."""
    try:
        return import_module(command.module).main(list(argv))
    except SystemExit as done:  # of the flag parser, which has said what was wrong
        return done.code if isinstance(done.code, int) else int(done.code is not None)


def guarded(action: Callable[[], int]) -> int:
    """The exit status of `action`; the user's errors become one line on stderr, never a traceback."""
    try:
        status = action()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return _PIPE_CLOSED
    except JaxPagedError as error:
        return _report(str(error), getattr(error, "__notes__", ()))
    except OSError as error:
        _silence_stdout()
        return _report(str(error))


def _report(text: str, notes: Sequence[str] = ()) -> int:
    sys.stderr.write(f"error: {' '.join(text.split())}{''.join(f' ({note})' for note in notes)}\n")
    return FAILED


def _silence_stdout() -> None:
    """Python flushes stdout once more at exit, and would complain about it."""
    with contextlib.suppress(OSError, ValueError):  # stdout is no file: nothing is flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
