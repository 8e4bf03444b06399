"""The bundled model in a process of its own: its tokens, its aborts, and what becomes of it when it is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxpaged_server.engine_process.restart_policy import RestartPolicy
from jaxpaged_server.engine_process.supervisor import EngineSupervisor
from jaxpaged_server.engine_process.token_stream import TokenStream
from jaxpaged_server.engine_process.watchdog import WatchLimits
from jaxpaged_server.engine_process.wire import Item, PoolMap
from long_runs import numbers_of

from jaxpaged.beams import BeamSearchParams
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ContextLengthError, EngineError, ModelError, ParameterError, PromptError, RequestError
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams

CONFIG = EngineConfig(max_model_len=256, max_num_seqs=4, max_num_batched_tokens=128, num_gpu_blocks_override=100)
LONG = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True)
PROMPTS = [[5, 6, 7], [300, 20, 1000, 4], list(range(40, 140)), [11] * 30]
CHOICES = [
    SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True),
    SamplingParams(temperature=0.0, max_tokens=12, logprobs=2),
    SamplingParams(temperature=0.9, seed=7, max_tokens=24, top_k=50),
    SamplingParams(temperature=0.8, seed=2**63, max_tokens=16, stop_token_ids=[3, 4], logit_bias={9: 2.0}),
]
LIMITS = WatchLimits(step_s=1.0, step_factor=0.001, check_s=0.05, dump_s=0.2)


class Served:
    """A supervisor whose engine is ready, and the event loop that it belongs to."""

    def __init__(self, runner: asyncio.Runner, supervisor: EngineSupervisor) -> None:
        self.runner, self.supervisor = runner, supervisor

    def run(self, body: Coroutine[Any, Any, None]) -> None:
        """One test's body; the engine is idle and its pool is empty after it."""

        async def whole() -> None:
            await asyncio.wait_for(self.supervisor.wait_ready(), 60)
            await body
            await settled(self.supervisor)

        self.runner.run(whole())


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with asyncio.Runner() as runner:

        async def start() -> EngineSupervisor:
            policy = RestartPolicy(delays_s=(0.01,) * 10)
            more = {"block_share": 1.0, "estimates": True}
            supervisor = EngineSupervisor(CONFIG, policy=policy, limits=LIMITS, faults=True, **more)
            supervisor.start()
            return supervisor

        supervisor = runner.run(start())
        yield Served(runner, supervisor)
        runner.run(supervisor.stop())
        assert supervisor.state.phase == "stopped"


async def read(stream: TokenStream) -> list[Item]:
    """All items of a stream."""
    items: list[Item] = []
    try:
        while not items or items[-1].finish is None:
            items += await asyncio.wait_for(stream.next(), 20)
    finally:
        stream.close()
    return items


async def pool(supervisor: EngineSupervisor) -> PoolMap:
    found = await supervisor.call("pool_map")
    assert isinstance(found, PoolMap)
    return found


async def settled(supervisor: EngineSupervisor) -> float:
    """Seconds until no request holds a block or waits for one."""
    began = time.monotonic()
    while (await pool(supervisor)).requests:
        assert time.monotonic() - began < 5, "requests are left"
        await asyncio.sleep(0.002)
    assert supervisor.num_streams == 0
    found = await pool(supervisor)
    assert set(numbers_of(found.classes)[1:]) <= {0, 1}
    assert set(numbers_of(found.owners)) == {-1}
    return time.monotonic() - began


@pytest.fixture(scope="module")
def expected() -> list[list[tuple[int | None, str | None, int | None, Any]]]:
    """What the engine itself makes of the prompts: token, finish, stop reason, logprobs."""
    engine, found = LLMEngine(CONFIG), []
    for prompt, params in zip(PROMPTS, CHOICES, strict=True):
        engine.enqueue(engine.check(prompt, params), params)
        events = []
        while engine.has_unfinished:
            events += engine.step_tokens()
        found.append(
            [
                (
                    event.token,
                    event.finish and event.finish.value,
                    event.stop_reason,
                    event.logprobs and {token: (p.logprob, p.rank) for token, p in event.logprobs.items()},
                )
                for event in events
            ]
        )
    return found


def seen(items: list[Item]) -> list[tuple[int | None, str | None, int | str | None, Any]]:
    return [(item.token, item.finish, item.stop_reason, item.logprobs) for item in items]


async def reads_right(supervisor: EngineSupervisor, expected: list[Any]) -> None:
    """All prompts at once give what each gives alone."""
    pairs = zip(PROMPTS, CHOICES, strict=True)
    all_items = await asyncio.gather(*(read(supervisor.submit(prompt, params)) for prompt, params in pairs))
    assert [seen(items) for items in all_items] == expected


def test_tokens_are_the_engine_s_own(served: Served, expected: list[Any]) -> None:
    async def body() -> None:
        info = served.supervisor.info
        assert info is not None
        assert (info.max_model_len, info.max_num_seqs, info.num_blocks, info.vocab) == (256, 4, 100, 4096)
        assert len(info.fingerprint) == 16
        assert dict(info.table)["blocks"].startswith("100 of")
        await reads_right(served.supervisor, expected)

    served.run(body())


def test_forks_are_told_what_each_is_told_alone_and_beams_what_a_search_finds(served: Served) -> None:
    prompt, engine = PROMPTS[0], served.supervisor
    seeded = [SamplingParams(seed=7 + i, max_tokens=5, ignore_eos=True) for i in range(3)]
    beams = BeamSearchParams(beam_width=3, max_tokens=5, ignore_eos=True)
    local = LLMEngine(CONFIG)
    local.submit(prompt, beams, output_kind=OutputKind.FINAL_ONLY)
    (found,) = [output for _ in iter(lambda: local.has_unfinished, False) for output in local.step()]

    async def body() -> None:
        alone = [await read(engine.submit(prompt, params)) for params in seeded]
        forks = await asyncio.gather(*map(read, engine.submit_forks(prompt, seeded)))
        assert list(map(seen, forks)) == list(map(seen, alone))
        searched = engine.submit_forks(prompt, [beams.sampling()] * 3, length_penalty=1.0)
        items = await asyncio.gather(*map(read, searched))
        assert [tuple(item.token for item in each) for each in items] == [said.token_ids for said in found.outputs]
        await settled(engine)
        searched = engine.submit_forks(prompt, [beams.sampling()] * 3, length_penalty=1.0)
        for stream in searched:
            stream.close()
        refused = engine.submit_forks([1] * 250, [beams.sampling()] * 3, length_penalty=100.0)
        for stream in refused:
            with pytest.raises(ParameterError, match="length_penalty"):
                await read(stream)
        await settled(engine)

    served.run(body())


def test_beats_tell_of_blocks_used_again_and_of_the_work(served: Served) -> None:
    async def body() -> None:
        for _ in range(2):
            await read(served.supervisor.submit([9] * 200, SamplingParams(max_tokens=2)))
        info, told = served.supervisor.info, asyncio.Event()
        assert info is not None
        served.supervisor.add_beat_listener(lambda _: told.set())
        await asyncio.wait_for(told.wait(), 5)
        beat = served.supervisor.beat
        assert beat is not None
        assert beat.residency is not None
        assert sum(beat.residency.gap.counts) >= 200 // info.block_size
        assert sum(beat.residency.lifetime.counts) == 0, "the pool was never full"
        metrics = beat.metrics
        assert metrics.flops > 2 * metrics.step_tokens * 6 * 688128  # the layers' weights
        assert metrics.read_bytes > metrics.steps * 6 * 688128
        assert metrics.written_bytes == metrics.step_tokens * 6 * 2 * 2 * 64 * 2  # the KV, held in bfloat16

    served.run(body())


def test_what_cannot_be_served_is_refused_by_name(served: Served) -> None:
    async def body() -> None:
        submit = served.supervisor.submit
        for stream, kind, says in (
            (submit([], LONG), PromptError, "it has no token"),
            (submit([4096], LONG), PromptError, "prompt token id is 4096: the model's token ids go from 0 to 4095"),
            (submit([1] * 256, LONG), ContextLengthError, "prompt length is 256"),
            (submit([1], SamplingParams(stop_token_ids=[9999])), ParameterError, "stop_token_ids is 9999"),
        ):
            with pytest.raises(kind, match=says):
                await stream.next()

    served.run(body())


def test_prefixes_are_cached_within_their_namespace(served: Served) -> None:
    async def body() -> None:
        supervisor, prompt = served.supervisor, list(range(500, 600))
        few = SamplingParams(temperature=0.0, max_tokens=3)

        async def cached(salt: str) -> int:
            items = await read(supervisor.submit(prompt, few, salt=salt))
            assert all(item.num_cached == 0 for item in items[1:])
            return items[0].num_cached

        assert [await cached(salt) for salt in ("mine", "mine", "yours", "")] == [0, 96, 0, 0]
        assert await supervisor.call("reset_prefix_cache") is True
        assert await cached("mine") == 0
        with pytest.raises(RequestError, match="there is no such call"):
            await supervisor.call("make_coffee")

    served.run(body())


def test_beats_tell_of_steps_and_of_the_pool(served: Served) -> None:
    async def body() -> None:
        supervisor = served.supervisor
        records = []
        supervisor.add_beat_listener(lambda beat: records.extend(beat.steps))
        before = supervisor.beat
        await read(supervisor.submit([1, 2, 3], CHOICES[0]))
        await asyncio.sleep(0.6)
        beat = supervisor.beat
        assert beat is not None
        assert beat.metrics.output_tokens - (before.metrics.output_tokens if before else 0) >= 24
        assert beat.metrics.compiles_after_ready == 0
        assert (beat.running, beat.waiting, beat.step_age_s, beat.ledger.held) == (0, 0, 0, 0)
        assert beat.ledger.total == 100 * 16
        assert 0 < beat.longest_step_s < 5
        assert sum(beat.step_token_counts) == beat.metrics.steps
        assert sum(record.tokens for record in records) >= 26  # three of the prompt; the last token is never computed
        assert all(abs(record.at - time.time()) < 60 and record.rows == 1 for record in records[-20:])

    served.run(body())


def test_a_profile_is_written_where_it_was_asked_for(served: Served, tmp_path: Path) -> None:
    async def body() -> None:
        supervisor = served.supervisor
        await supervisor.call("start_profile", str(tmp_path))
        await read(supervisor.submit([1, 2, 3], CHOICES[0]))
        await supervisor.call("stop_profile")
        assert list(tmp_path.rglob("*.xplane.pb"))
        with pytest.raises(RequestError, match="No profile started"):
            await supervisor.call("stop_profile")

    served.run(body())


@pytest.mark.parametrize("state", ["queued", "prefilling", "decoding"])
def test_an_abort_frees_blocks_in_every_state(served: Served, state: str) -> None:
    async def body() -> None:
        supervisor = served.supervisor
        await supervisor.call("fault", "slow:0.03")  # time to look at
        others = [supervisor.submit([60 + i], LONG) for i in range(4)] if state == "queued" else []
        for other in others:
            await other.next()
        stream = supervisor.submit(list(range(1000, 1250)), SamplingParams(temperature=0.0, max_tokens=5))
        if state == "decoding":
            await stream.next()
        else:
            await asyncio.sleep(0.02)
        computed = [computed for number, _, computed, _ in (await pool(supervisor)).requests if number == stream.id]
        if state == "queued":
            assert computed == []
        else:
            assert len(computed) == 1
            assert (0 < computed[0] < 250) is (state == "prefilling"), computed
        began = time.monotonic()
        for left in (stream, *others):
            left.close()
        await settled(supervisor)
        assert time.monotonic() - began < 0.25
        await supervisor.call("fault", "none")
        await supervisor.call("reset_prefix_cache")

    served.run(body())


def test_200_requests_that_are_left_at_random_leave_nothing(served: Served) -> None:
    async def body() -> None:
        supervisor, draw = served.supervisor, random.Random(5)

        async def one(number: int) -> str:
            prompt = [draw.randrange(4096) for _ in range(draw.choice([1, 5, 70, 200]))]
            params = SamplingParams(temperature=0.0, max_tokens=draw.choice([1, 8, 50]), ignore_eos=True)
            ending = draw.choice(["close", "finish", "end", "close"])
            await asyncio.sleep(draw.random() * 0.6)
            stream = supervisor.submit(prompt, params, salt=draw.choice(["", "a"]))
            try:
                if ending == "end":
                    return (await read(stream))[-1].finish or ""
                await asyncio.sleep(draw.random() * 0.2)
                if ending == "finish":
                    stream.finish()
                return ending
            finally:
                stream.close()

        endings = await asyncio.gather(*(one(number) for number in range(200)))
        assert {ending: endings.count(ending) > 20 for ending in set(endings)} == dict.fromkeys(
            ("length", "close", "finish"), True
        )

    served.run(body())


def test_a_killed_engine_is_replaced_and_serves_the_same(served: Served, expected: list[Any]) -> None:
    async def body() -> None:
        supervisor = served.supervisor
        streams = [supervisor.submit([70 + i], LONG) for i in range(6)]  # two of them wait
        await streams[0].next()
        tasks = [asyncio.create_task(read(stream)) for stream in streams]
        await asyncio.sleep(0.02)
        pid, info = supervisor.pid, supervisor.info
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert time.monotonic() - began < 1
        assert [type(end) for end in ends] == [EngineError] * 6
        assert supervisor.state.phase != "ready"
        again = await asyncio.wait_for(supervisor.wait_ready(), 60)
        assert supervisor.pid != pid
        assert info is not None
        assert again.fingerprint == info.fingerprint
        await reads_right(supervisor, expected)

    served.run(body())


def test_a_step_that_hangs_ends_the_engine(served: Served) -> None:
    async def body() -> None:
        supervisor = served.supervisor
        await read(supervisor.submit([1, 2, 3], CHOICES[0]))
        await asyncio.sleep(0.3)  # a beat that knows of it
        stream = supervisor.submit([80], LONG)
        await stream.next()
        await supervisor.call("fault", "hang")
        with pytest.raises(EngineError, match="a step has not returned"):
            await read(stream)
        assert "a step has not returned" in supervisor.state.error
        await asyncio.wait_for(supervisor.wait_ready(), 60)
        assert (await read(supervisor.submit([1, 2, 3], CHOICES[0])))[-1].finish == "length"

    served.run(body())


def test_a_folder_that_is_no_model_is_named_and_not_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        supervisor = EngineSupervisor(EngineConfig(model=str(tmp_path)))
        supervisor.start()
        try:
            with pytest.raises(ModelError, match=r"file is 'config.json': it is missing"):
                await asyncio.wait_for(supervisor.wait_ready(), 60)
            assert (supervisor.state.phase, supervisor.state.restarts) == ("failed", 0)
        finally:
            await supervisor.stop()

    asyncio.run(main())
