"""Numbers that users give: of the right kind and within bounds, or refused by name. [host half: no jax]"""

from __future__ import annotations

import math
from numbers import Integral, Real

from jaxpaged.errors import ParameterError


def whole_number(name: str, value: object, low: int, high: int = 2**31 - 1, fix: str = "") -> int:
    """The value as an int. Raises ParameterError for another type (bools are none) or one out of bounds."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ParameterError(name=name, value=value, limit=f"it must be a whole number from {low} to {high}", fix=fix)
    return int(value)


def number(name: str, value: object, low: float, high: float, fix: str = "", *, above: bool = False) -> float:
    """The value as a float; above: `low` itself is out of bounds. Raises ParameterError."""
    try:
        found = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number that no float holds
        found = math.nan
    if not low <= found <= high or (above and found == low):
        bounds = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise ParameterError(name=name, value=value, limit=f"it must be a number {bounds}", fix=fix)
    return found
