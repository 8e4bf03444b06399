"""The child: makes grammars, one at a time, and reads each once. [host half: no jax]

The time of a processor that a form may take is capped. It tries forms with the tokens that the model has, since on
these depends what a mask takes. It reads with a fourth of the stack that threads have elsewhere, so that what it got
through recurses nowhere too deep.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from jaxpaged.answering import answer_frames
from jaxpaged.errors import GrammarError
from jaxpaged.structured.constraint import MAX_MASK_S, too_slow
from jaxpaged.structured.grammar import grammar_of
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.vocabulary import Vocabulary
from jaxpaged.structured.wire import CPU_S, Answer, Ask, Setup, answer_of, frame

_STACK_BYTES = 2 * 1024 * 1024


def main() -> int:
    """Serve stdin until its end."""
    return answer_frames(_begin)


def _begin(told: bytes) -> Callable[[bytes], bytes]:
    setup = msgspec.msgpack.decode(told, type=Setup)
    vocabulary = Vocabulary(setup.tokens, setup.no_text, encode=lambda _: None, width=len(setup.tokens))
    decode = msgspec.msgpack.Decoder(Ask).decode
    threading.stack_size(_STACK_BYTES)
    return lambda asked: frame(_in_thread(lambda: _made(decode(asked), setup.special, vocabulary)))


def _made(asked: Ask, special: dict[str, int], vocabulary: Vocabulary) -> Answer:
    params = asked.params
    try:
        grammar = _tried(params, special, vocabulary)
    except GrammarError as error:
        return answer_of(error)
    except MemoryError:
        return answer_of(GrammarError(name=params.kind, value=params.kind, limit="it takes too much memory"))
    finally:
        _count_down(0)
    return Answer(grammar=grammar)


def _tried(params: StructuredOutputsParams, special: dict[str, int], vocabulary: Vocabulary) -> str:
    """The grammar, of which a matcher was made, and a mask. Raises GrammarError."""
    _count_down(CPU_S)
    try:
        grammar = grammar_of(params, special=special, vetted=True)
        matcher = vocabulary.matcher(grammar, kind=params.kind)
    except GrammarError:
        _count_down(2 * CPU_S)
        grammar_of(params, special=special)  # which says where the fault is
        raise
    began_s = time.thread_time()
    vocabulary.first_mask(matcher)
    if (spent_s := time.thread_time() - began_s) > MAX_MASK_S:
        raise too_slow(params.kind, spent_s)
    return grammar


def _count_down(cpu_s: float) -> None:
    """End the process when it has had so many seconds of a processor; 0: do not."""
    if hasattr(signal, "setitimer"):  # a Unix
        signal.setitimer(signal.ITIMER_PROF, cpu_s)


def _in_thread(work: Callable[[], Answer]) -> Answer:
    """Do it where the stack is small."""
    done: list[Answer] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    return done[0]


if __name__ == "__main__":
    sys.exit(main())
