"""How a constraint says that an answer is over. [host half: no jax]"""

from __future__ import annotations


class AnswerEnd(Exception):
    """Raised by a constraint's `fill`: the answer is whole, and nothing may follow on it."""
