"""Counts as people write them: 4096, 4k (4,000), 4K (4,096), 1.5m. [no jax]"""

from __future__ import annotations

import re

from jaxpaged.errors import ConfigError

_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_WRITTEN = re.compile(r"(-?[0-9]{1,15})|([0-9]{1,15}(?:\.[0-9]{1,9})?)([kmgt])|([0-9]{1,15})([KMGT])")


def count_of(text: str, *, name: str) -> int:
    """The number: small suffixes are powers of 1,000, large ones of 1,024, as in vLLM. Raises ConfigError."""
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            name=name,
            value=text,
            limit="it must be a whole number",
            fix="As in 4096, 4k (4,000), 4K (4,096) or 1.5m (no fractions of K, M, G, T)",
        )
    plain, decimal, small, binary, large = match.groups()
    if plain is not None:
        return int(plain)
    if small is not None:
        whole, _, fraction = decimal.partition(".")
        zeros = 3 * _POWERS[small]
        return int(whole) * 10**zeros + int(fraction[:zeros].ljust(zeros, "0"))
    return int(binary) * 1024 ** _POWERS[large.lower()]
