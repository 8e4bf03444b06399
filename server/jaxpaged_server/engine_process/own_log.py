"""The log of the engine's process: the server's lines in the server's form, whatever a thread raises. [no jax]"""

from __future__ import annotations

import argparse
import logging
import os
import threading

from jaxpaged_server.logs import LogForm, configure_logging

_log = logging.getLogger(__name__)


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that `log_arguments` makes."""
    parser.add_argument("--log-level", default="INFO", help="the server's")
    parser.add_argument("--log-format", default="text", help="the server's")
    parser.add_argument("--log-fd", type=int, help="where the log goes (default: stderr)")


def log_arguments(form: LogForm, log_fd: int | None) -> list[str]:
    """The command line of a process whose log has this form. log_fd: a file that it inherits."""
    words = ["--log-level", form.level, "--log-format", form.format]
    return words if log_fd is None else [*words, "--log-fd", str(log_fd)]


def start_log(options: argparse.Namespace) -> None:
    """From now on everything is a line of the log: warnings, and what ends a thread."""
    stream = None
    if options.log_fd is not None:
        os.set_inheritable(options.log_fd, False)  # a compiler that is started from here has no use for it
        stream = open(options.log_fd, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    configure_logging(LogForm(level=options.log_level, format=options.log_format), stream=stream)
    logging.captureWarnings(capture=True)
    threading.excepthook = _on_thread_error


def _on_thread_error(raised: threading.ExceptHookArgs) -> None:
    name = "unknown" if raised.thread is None else raised.thread.name
    error = raised.exc_value or raised.exc_type()
    _log.critical("the thread %s has failed", name, exc_info=error)
