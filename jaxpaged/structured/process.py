"""A process that reads grammars first: what one costs or breaks is a child's. [host half: no jax]"""

from __future__ import annotations

import signal

from jaxpaged.asked_child import AskedChild, BrokenChildError
from jaxpaged.errors import GrammarError
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.wire import COMMAND, CPU_S, Answer, Ask, Setup, frame, grammar_in


class GrammarProcess:
    """`grammar_of` in a child: one that takes too long is killed, and the next form gets another one. Calls may come
    from several threads; one is served at a time.

    limit_s: seconds of one form by the clock, whatever else the machine does; of a processor it is given `CPU_S`.
    """

    def __init__(self, setup: Setup, *, limit_s: float = 4.0) -> None:
        self._limit_s = limit_s
        self._child = AskedChild("process of grammars", COMMAND, setup=frame(setup), answers=Answer)

    def grammar(self, params: StructuredOutputsParams) -> str:
        """As `grammar_of`. Raises GrammarError, too, for a form that takes too long or too much memory; ChildError
        where the process does not start."""
        try:
            return grammar_in(self._child.ask(frame(Ask(params=params)), limit_s=self._limit_s))
        except TimeoutError:
            limit = f"to make a grammar of it takes more than {self._limit_s:g} s"
        except BrokenChildError as error:
            if _ran_out_of_time(error.code):
                limit = f"to make a grammar of it takes more than {CPU_S:g} s of a processor"
            else:
                limit = "to make a grammar of it breaks its process, by the memory it takes or by its depth"
        raise GrammarError(name=params.kind, value=_beginning(params), limit=limit, fix="Ask for less")

    def close(self) -> None:
        """End the child, if there is one; the next form starts another."""
        self._child.close()


def _ran_out_of_time(code: int | None) -> bool:
    return hasattr(signal, "SIGPROF") and code == -signal.SIGPROF


def _beginning(params: StructuredOutputsParams) -> object:
    value = getattr(params, params.kind)
    return value[:200] if isinstance(value, str) else value
