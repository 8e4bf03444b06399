"""The error that tells all that is wrong with a model's weights at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxpaged.errors import WeightsError

_MOST_LISTED = 50
"""Problems that an error spells out."""


def refusal(place: Path, problems: Sequence[str], *, fix: str) -> WeightsError:
    """Of the weights at a place; problems: sentences, of which the first are spelled out and the others counted."""
    listed, more = list(problems[:_MOST_LISTED]), len(problems) - _MOST_LISTED
    return WeightsError(
        name=f"weights of {place.name}",
        value=f"{len(problems)} problem{'s' if len(problems) > 1 else ''}",
        limit="\n  " + "\n  ".join([*listed, f"and {more} more"] if more > 0 else listed) + "\n",
        fix=fix,
    )
