"""Panics of libraries in Rust: mistakes of theirs, over data that others made. [host half: no jax]"""

from __future__ import annotations


def is_failure(error: BaseException) -> bool:
    """Whether a library failed, by an exception or a panic, and nobody asked it to stop.

    A panic comes as a BaseException whose class each library makes for itself and none exports (pyo3). It has unwound:
    what was called is not to be trusted any more, what calls it is whole.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
