"""Options that are objects, from a command line as JSON. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpaged.bounded_json import parse_json
from jaxpaged.errors import ConfigError


def option_object(name: str, value: object, *, fix: str) -> Mapping[str, Any]:
    """The value of the option of this name, an object or its JSON text, in which no key comes twice; {} for None.

    fix: of the error about what is no object. Raises ConfigError.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value.encode())
        except ValueError as error:
            raise ConfigError(name=name, value=value, limit=f"it is not JSON: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(name=name, value=value, limit="it must be a JSON object", fix=fix)
    return value
