"""The block pool as the status page draws it: made once a beat of the engine, however many look at it."""

from __future__ import annotations

import asyncio

import msgspec

from jaxpaged.errors import EngineError
from jaxpaged_server.api.status import status_pool
from jaxpaged_server.engine_process.supervisor import EngineSupervisor
from jaxpaged_server.engine_process.wire import Beat, EngineInfo

_PATIENCE_S = 2.0
"""Seconds that the engine may take to draw its pool: it does so between two steps."""


class PoolView:
    """A `StatusPool` in JSON, of the engine that serves."""

    def __init__(self, engine: EngineSupervisor) -> None:
        self._engine = engine
        self._beat: Beat | None = None  # since which nothing new is told
        self._drawn: msgspec.Raw | None = None
        self._drawing: asyncio.Task[None] | None = None

    async def json(self) -> msgspec.Raw | None:
        """None where the engine has none to show, or is too busy to."""
        engine = self._engine
        if engine.state.phase != "ready" or engine.info is None:
            return None
        if self._drawing is None and (engine.beat is None or engine.beat is not self._beat):
            self._drawing = asyncio.create_task(self._draw(engine.info))
            self._drawing.add_done_callback(self._drew)
        if self._drawing is not None:
            await asyncio.shield(self._drawing)  # others wait for it, too: one who leaves does not end it
        return self._drawn

    async def _draw(self, info: EngineInfo) -> None:
        beat, drawn = self._engine.beat, None
        try:
            found = await self._engine.call("pool_map", timeout_s=_PATIENCE_S)
            drawn = msgspec.Raw(msgspec.json.encode(status_pool(found, block_size=info.block_size)))
        except EngineError:
            pass
        self._beat, self._drawn = beat, drawn

    def _drew(self, _: asyncio.Task[None]) -> None:
        self._drawing = None
