"""What handlers share: the engine, admission, keys, text, settings. Made by `assembly`, found in the application."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from jaxpaged.dialects.dialect import Dialect, dialect_of
from jaxpaged_server.access.keys import Key, Keys
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.api.status import MAX_STEPS
from jaxpaged_server.engine_process.supervisor import EngineSupervisor
from jaxpaged_server.engine_process.wire import EngineInfo, StepRecord
from jaxpaged_server.flights import Flight, Flights
from jaxpaged_server.forms import Forms
from jaxpaged_server.metrics.kv_publisher import KVPublisher
from jaxpaged_server.metrics.orca import FORMAT_HEADER, load_report
from jaxpaged_server.metrics.registry import ServerMetrics
from jaxpaged_server.pool_view import PoolView
from jaxpaged_server.refusals import DeadlineError, ModelNotFoundError, NotReadyError
from jaxpaged_server.settings import ServerConfig
from jaxpaged_server.text import TextWorker
from jaxpaged_server.traces import Traces


@dataclass(slots=True, kw_only=True)
class Services:
    """One server's parts.

    names: under which the model is served, the first is shown. created: Unix seconds.
    """

    settings: ServerConfig
    names: tuple[str, ...]
    engine: EngineSupervisor
    keys: Keys
    text: TextWorker
    forms: Forms
    metrics: ServerMetrics
    flights: Flights
    admission: Admission
    created: int
    began: float  # on the monotonic clock
    traces: Traces | None = None
    publisher: KVPublisher | None = None
    steps: deque[StepRecord] = field(default_factory=lambda: deque(maxlen=MAX_STEPS))
    last_beat: float = 0.0  # of the engine, on the monotonic clock
    draining: bool = False
    pool_view: PoolView = field(init=False)
    dialect: Dialect = field(init=False)
    markup: frozenset[int] = field(init=False)  # special tokens that the dialect consists of

    def __post_init__(self) -> None:
        self.pool_view = PoolView(self.engine)
        settings = self.settings
        self.dialect = dialect_of(
            tool_call_parser=settings.tool_call_parser, reasoning_parser=settings.reasoning_parser
        )
        self.markup = self.text.tokenizer.ids_within(self.dialect.marks)

    async def close(self) -> None:
        """End what has threads and processes, the engine excepted; what is still to be told is told."""
        await self.text.close()
        await self.forms.close()
        for one in (self.publisher, self.traces):
            if one is not None:
                await asyncio.to_thread(one.close)

    def info(self) -> EngineInfo:
        """What is known of the engine. Raises NotReadyError before it is ready, and while it is started again."""
        state, info = self.engine.state, self.engine.info
        if state.phase != "ready" or info is None:
            raise NotReadyError(
                name="engine",
                value=state.phase,
                limit="it takes no requests now",
                fix="/health/ready tells how far it is",
                retry_after_s=max(1, round(state.left_s or 1.0)),
            )
        return info

    def check_open(self, key: Key) -> None:
        """Raise NotReadyError or QueueFullError for a request that could not be taken whatever it holds: before anybody
        reads it."""
        self.info()  # it knows better for how long
        self.admission.check_room(key)

    def model(self, asked: str | None) -> str:
        """The name to answer with. Raises ModelNotFoundError for a model that is not served."""
        if asked is None:
            return self.names[0]
        if asked not in self.names:
            limit = f"served is {', '.join(map(repr, self.names))}"
            raise ModelNotFoundError(name="model", value=asked, limit=limit)
        return asked

    @asynccontextmanager
    async def deadline(self, at: float) -> AsyncIterator[None]:
        """Ends what is inside at this time of the monotonic clock. Raises DeadlineError."""
        try:
            async with asyncio.timeout(max(0.0, at - time.monotonic())):
                yield
        except TimeoutError:
            raise DeadlineError(
                name="request", value="unfinished", limit="its time is over", fix="Ask for less, or for more time"
            ) from None

    def load_headers(self, request: web.Request) -> dict[str, str]:
        """What the replica's load is, where a gateway asks for it."""
        asked = request.headers.get(FORMAT_HEADER)
        return {} if asked is None else load_report(asked, self.metrics.load())

    def now(self) -> int:
        """Unix seconds."""
        return int(time.time())


SERVICES = web.AppKey("services", Services)
KEY = web.RequestKey("key", Key)
"""Where a request keeps who is asking."""
REQUEST_ID = web.RequestKey("request_id", str)
FLIGHT = web.RequestKey("flight", Flight)


def services_of(request: web.Request) -> Services:
    """The server's parts."""
    return request.config_dict[SERVICES]


def key_of(request: web.Request) -> Key:
    """Who is asking, as the middleware found out."""
    return request[KEY]


def visible_key(request: web.Request) -> str | None:
    """The name of the only key whose figures this request may see; None where it may see those of all.

    On the operator's socket nobody is asked for a key, and all is shown.
    """
    key = request.get(KEY)
    return None if key is None or services_of(request).keys.sees_all(key) else key.name


def flight_of(request: web.Request) -> Flight:
    """The request among those in handlers."""
    return request[FLIGHT]
