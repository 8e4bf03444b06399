"""An engine without a process: answers by a rule, at once or when it is told to. For tests of what lies before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from beats import engine_info
from jaxpaged_server.engine_process.supervisor import EngineState
from jaxpaged_server.engine_process.wire import Beat, EngineInfo, Item, PoolMap

from jaxpaged.errors import EngineError
from jaxpaged.ledger import KVLedger
from jaxpaged.metrics import EngineMetrics
from jaxpaged.request import SamplingParams

INFO = engine_info(max_model_len=256, vocab=4096, num_blocks=65, max_num_seqs=8, max_num_batched_tokens=128)

NO_SLOTS = dict.fromkeys(KVLedger.__dataclass_fields__, 0)
BEAT = Beat(
    metrics=EngineMetrics(),
    ledger=KVLedger(**NO_SLOTS),
    running=0,
    waiting=0,
    step_age_s=0.0,
    oldest_wait_s=0.0,
    longest_step_s=0.0,
    steps=[],
)


def next_token(ids: list[int], i: int) -> int:
    """The rule: token i of the answer to a prompt; printable ASCII of the bundled tokenizer or anything above."""
    return 40 + (sum(ids) + i) % 50


@dataclass(eq=False)
class ScriptedStream:
    """One request's tokens."""

    engine: ScriptedEngine
    ids: list[int]
    params: SamplingParams
    salt: str
    sent: int = 0
    closed: bool = False
    finished: bool = False
    aborted: bool = False
    broken: bool = False
    unkept: str = ""  # why its answer ends with an error
    failure: BaseException | None = None
    times: list[float] = field(default_factory=list)

    async def next(self, wanted: int = 1) -> list[Item]:
        del wanted  # a hint
        items = await self._next()
        self.times = [time.monotonic()] * len(items)
        return items

    async def _next(self) -> list[Item]:
        while True:
            if self.failure is not None:
                raise self.failure
            if self.aborted:
                return [Item(id=0, finish="abort")]
            if self.broken:
                self.engine.live.discard(self)
                return [Item(id=0, finish="error", error="the model's output at position 3 is not finite")]
            if (step := await self.engine.pace(self)) > 0:
                if self.unkept:
                    return [Item(id=0, finish="error", error=self.unkept)]
                return self._items(step)

    def finish(self) -> None:
        self.finished = True
        self.engine.live.discard(self)

    def close(self) -> None:
        self.closed = True
        self.engine.live.discard(self)

    def _items(self, count: int) -> list[Item]:
        longest = (self.engine.info or INFO).max_model_len - len(self.ids)
        most = min(self.params.max_tokens or longest, longest)
        script = self.engine.script
        if script is not None:
            most = min(most, len(script))
        items = []
        for i in range(self.sent, min(self.sent + count, most)):
            token = next_token(self.ids, i) if script is None else script[i]
            last = i + 1 == most
            by_id = token in self.params.stop_ids
            stopped = by_id or (script is not None and i + 1 == len(script))
            items.append(
                Item(
                    id=0,
                    token=token,
                    finish="stop" if stopped else "length" if last else None,
                    stop_reason=token if by_id else None,
                    num_cached=4 if i == 0 and len(self.ids) > 4 else 0,
                    logprobs=self._logprobs(token) if self._tells_logprobs() else None,
                    prompt_logprobs=self._prompt_logprobs() if i == 0 else None,
                )
            )
            if stopped or last:
                self.engine.live.discard(self)
                break
        self.sent += len(items)
        return items

    def _logprobs(self, token: int) -> dict[int, tuple[float, int]]:
        if self.params.logprob_token_ids is not None:
            named = self.params.logprob_token_ids
            return {token: (-0.5, 1), **{other: (token - other - 0.5, abs(other - token) + 1) for other in named}}
        others = {token + 1 + r: (-1.5 - r, r + 2) for r in range((self.params.logprobs or 1) - 1)}
        return {token: (-0.5, 1), **others}

    def _tells_logprobs(self) -> bool:
        return self.params.logprobs is not None or self.params.logprob_token_ids is not None

    def _prompt_logprobs(self) -> list[dict[int, tuple[float, int]] | None] | None:
        if self.params.prompt_logprobs is None:
            return None
        likelier = {900 + r: (-0.5 - r, r + 1) for r in range(min(self.params.prompt_logprobs, 2))}
        return [None, *({token: (-2.0, 3), **likelier} for token in self.ids[1:])]


class ScriptedEngine:
    """Stands in for an `EngineSupervisor`. pace: how many tokens a stream gets when it asks, after waiting. script: the
    tokens of every answer, the last of which is its end, in place of those of the rule."""

    def __init__(
        self, pace: Callable[[ScriptedStream], Any] | None = None, *, script: Sequence[int] | None = None
    ) -> None:
        self.state = EngineState(phase="ready")
        self.info: EngineInfo | None = INFO
        self.beat: Beat | None = BEAT
        self.live: set[ScriptedStream] = set()
        self.streams: list[ScriptedStream] = []
        self.calls: list[tuple[str, str]] = []
        self.forks: list[int] = []  # how many requests came together
        self.searches: list[float] = []  # the length penalties of beam searches
        self._pace = pace
        self.script = script
        self.gone: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def pace(self, stream: ScriptedStream) -> int:
        if self._pace is None:
            await asyncio.sleep(0)
            return 1
        return await self._pace(stream)

    def submit(self, ids: list[int], params: SamplingParams, salt: str = "") -> ScriptedStream:
        if self.state.phase != "ready":
            raise EngineError(name="engine", value=self.state.phase, limit="it is not ready")
        stream = ScriptedStream(self, ids, params, salt)
        self.live.add(stream)
        self.streams.append(stream)
        return stream

    def submit_forks(
        self,
        ids: list[int],
        params: Sequence[SamplingParams],
        salt: str = "",
        length_penalty: float | None = None,
    ) -> list[ScriptedStream]:
        self.forks.append(len(params))
        if length_penalty is not None:
            self.searches.append(length_penalty)
        return [self.submit(ids, of_one, salt) for of_one in params]

    async def call(self, name: str, argument: str = "", timeout_s: float = 10.0) -> Any:
        del timeout_s
        self.calls.append((name, argument))
        return PoolMap([5, (0, 64)], [(-1, 65)], []) if name == "pool_map" else True

    def abort_all(self) -> int:
        for stream in (found := list(self.live)):
            stream.aborted = True
        return len(found)

    def add_beat_listener(self, listener: Any) -> None:
        del listener

    def add_state_listener(self, listener: Any) -> None:
        del listener

    def start(self) -> None:
        return None

    async def stop(self, grace_s: float = 0.0) -> None:
        del grace_s

    async def wait_ready(self) -> EngineInfo:
        return INFO

    def break_down(self) -> None:
        """As when the process dies: every stream fails."""
        self.state = EngineState(phase="restarting")
        self.info = None
        for stream in list(self.live):
            stream.failure = EngineError(name="engine", value="gone", limit="its process ended")
