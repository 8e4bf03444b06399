# pyright: reportMissingImports=false
"""The type that Python clients ask answers for, and what the answers of a tiny model must be by the grammar alone.

Every part of it has an end: a model that does not know what it says would go on for ever where the form lets it.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """One thing of an order."""

    model_config = ConfigDict(extra="forbid")

    side: Literal["left", "right"]
    size: int = Field(ge=0, le=99)


class Order(BaseModel):
    """The same as `schema` in cases.json."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(pattern="^[a-z]{2,6}$")
    urgent: bool
    parts: list[Part] = Field(min_length=1, max_length=3)


def check_order(text: str | None, wanted: str | None = None) -> None:
    """A text that is an order; and the text that the engine gives for the schema, where that is known."""
    assert text is not None
    Order.model_validate_json(text)
    if wanted is not None:
        assert json.loads(text) == json.loads(wanted), (text, wanted)


def partly(found: Any) -> bool:
    """Whether what a stream has told so far is part of an order, as types with all fields optional show it."""
    told: dict[str, Any] = {name: value for name, value in dict(found).items() if value is not None}
    return told.keys() <= Order.model_fields.keys()
