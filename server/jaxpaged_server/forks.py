"""The answers to one prompt on their way to the engine: together, so that it computes and holds it once. [no jax]

Each answer waits for its own turn. Those whose turn comes in one pass of the event loop are submitted together at its
end; one that comes later is a request of its own, which the engine's prefix cache may serve. The beams of a search have
one turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jaxpaged.request import SamplingParams

if TYPE_CHECKING:
    from jaxpaged_server.engine_process.supervisor import EngineSupervisor
    from jaxpaged_server.engine_process.token_stream import TokenStream


class Forks:
    """Submits the answers to one prompt, token ids, of which there are `count`: those of a beam search, where there is
    a length penalty, once all of them are asked for. For one event loop."""

    def __init__(
        self, engine: EngineSupervisor, ids: tuple[int, ...], salt: str, *, count: int, length_penalty: float | None
    ) -> None:
        self._engine, self._ids, self._salt = engine, ids, salt
        self._count, self._length_penalty = count, length_penalty
        self._asked: list[tuple[SamplingParams, asyncio.Future[TokenStream]]] = []

    async def submit(self, params: SamplingParams) -> TokenStream:
        """The tokens of one answer. Raises what the engine's `submit` raises."""
        searches = self._length_penalty is not None
        if self._count == 1 and not searches:
            return self._engine.submit(self._ids, params, self._salt)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[TokenStream] = loop.create_future()
        self._asked.append((params, future))
        if len(self._asked) == (self._count if searches else 1):
            loop.call_soon(self._submit_all)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close()  # submitted, but nobody is left to read it
            raise

    def _submit_all(self) -> None:
        asked = [(params, future) for params, future in self._asked if not future.done()]  # others have left
        self._asked = []
        if len(asked) < (1 if self._length_penalty is None else self._count):
            for _, future in asked:
                future.cancel()  # beams of a request that is being left
            return
        try:
            params = [params for params, _ in asked]
            streams = self._engine.submit_forks(self._ids, params, self._salt, self._length_penalty)
        except Exception as error:
            for _, future in asked:
                future.set_exception(error)
            return
        for (_, future), stream in zip(asked, streams, strict=True):
            future.set_result(stream)
