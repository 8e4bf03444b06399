"""A few processes that read grammars first: as many forms at once. [host half: no jax]"""

from __future__ import annotations

from queue import LifoQueue

from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.process import GrammarProcess
from jaxpaged.structured.wire import Setup

NUM_PROCESSES = 2


class GrammarProcesses:
    """`GrammarProcess.grammar` for several threads at a time: a form that takes long, or breaks its process, holds up
    none in the others. Each is started when one more is needed.

    setup: what each is told of the tokenizer.
    """

    def __init__(self, setup: Setup) -> None:
        self._free: LifoQueue[GrammarProcess] = LifoQueue()  # one that was used last has its child
        for _ in range(NUM_PROCESSES):
            self._free.put(GrammarProcess(setup))

    def grammar(self, params: StructuredOutputsParams) -> str:
        """See `GrammarProcess.grammar`; waits while all of them are at work."""
        process = self._free.get()
        try:
            return process.grammar(params)
        finally:
            self._free.put(process)

    def close(self) -> None:
        """End them, each once what it reads now is read."""
        processes = [self._free.get() for _ in range(NUM_PROCESSES)]
        for process in processes:
            process.close()
            self._free.put(process)
