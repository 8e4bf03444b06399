"""Answers that go round in circles: what counts as one. [host half: no jax]"""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaged.checked_numbers import whole_number
from jaxpaged.errors import ParameterError

MAX_SPAN = 4096
"""Tokens at the end of an answer that are looked at: the longest pattern, as often as it must come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionDetectionParams:
    """When an answer is ended because it repeats itself; names and meanings are vLLM's.

    Raises ParameterError naming the field, its value and the limit.
    """

    max_pattern_size: int = 0
    """Tokens of the longest pattern that is looked for; 0 looks for none."""
    min_pattern_size: int = 0
    """Tokens of the shortest one; 0 counts as 1."""
    min_count: int = 0
    """How often a pattern must come, one after the other, at least 2."""

    def __post_init__(self) -> None:
        name = "repetition_detection"
        most = whole_number(f"{name}.max_pattern_size", self.max_pattern_size, 0, MAX_SPAN // 2)
        whole_number(f"{name}.min_pattern_size", self.min_pattern_size, 0, most)
        fix = "Or set max_pattern_size to 0, which looks for nothing"
        count = whole_number(f"{name}.min_count", self.min_count, 2 if most else 0, fix=fix)
        if most * count > MAX_SPAN:
            raise ParameterError(
                name=f"{name}.max_pattern_size x min_count",
                value=most * count,
                limit=f"at most {MAX_SPAN} tokens of an answer are looked at",
                fix="Look for shorter patterns, or for fewer of them",
            )
