"""llguidance, which reads grammars: what it may spend on one, and what it says is wrong with one.
[host half: no jax]
"""

from __future__ import annotations

import llguidance

from jaxpaged.panics import is_failure

_SHOWN = 300
"""Characters of its messages that an error shows."""


def limits() -> llguidance.LLParserLimits:
    """What one grammar may cost, to read and at each token."""
    return llguidance.LLParserLimits(verbose_errors=False)


def fault_of(grammar: str) -> str | None:
    """What is wrong with a grammar, in a line; None where it can be read."""
    try:
        said = llguidance.LLMatcher.validate_grammar(grammar, limits=limits())
    except BaseException as error:
        if not is_failure(error):
            raise
        said = f"it cannot be read: {error}"
    return one_line(said) or None


def one_line(said: str) -> str:
    """The beginning of a message."""
    return said.strip().partition("\n")[0][:_SHOWN]
