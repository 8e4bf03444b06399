"""Engines that are killed or stopped at random moments under load: nobody waits for ever, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest
from jaxpaged_server.engine_process.restart_policy import RestartPolicy
from jaxpaged_server.engine_process.supervisor import EngineSupervisor
from jaxpaged_server.engine_process.token_stream import TokenStream
from jaxpaged_server.engine_process.watchdog import WatchLimits

from jaxpaged.config import EngineConfig
from jaxpaged.errors import EngineError
from jaxpaged.request import SamplingParams

pytestmark = pytest.mark.slow

CONFIG = EngineConfig(max_model_len=256, max_num_seqs=4, max_num_batched_tokens=128, num_gpu_blocks_override=100)
PARAMS = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
KILLS = 20


async def tokens(supervisor: EngineSupervisor, first: int) -> list[int | None]:
    return await rest(supervisor.submit([first, first + 1], PARAMS))


async def rest(stream: TokenStream) -> list[int | None]:
    """What a stream gives to its end."""
    found: list[int | None] = []
    try:
        while True:
            items = await asyncio.wait_for(stream.next(), 30)
            found += [item.token for item in items]
            if items[-1].finish is not None:
                return found
    finally:
        stream.close()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV], ids=lambda number: number.name)
def test_every_request_ends_however_often_the_engine_does(number: signal.Signals) -> None:
    draw = random.Random(number)

    async def main() -> None:
        supervisor = EngineSupervisor(
            CONFIG,
            policy=RestartPolicy(delays_s=(0.01,) * 1000),
            limits=WatchLimits(silence_s=2.0, start_s=10.0, check_s=0.1, dump_s=0.1),
        )
        supervisor.start()
        await supervisor.wait_ready()
        right = [await tokens(supervisor, 100 + i) for i in range(8)]
        ends = {"right": 0, "gone": 0}
        killing = True

        async def client(which: int) -> None:
            while killing:
                try:
                    assert await tokens(supervisor, 100 + which) == right[which]
                    ends["right"] += 1
                except EngineError:
                    ends["gone"] += 1
                    await asyncio.sleep(0.05)

        clients = [asyncio.create_task(client(i)) for i in range(8)]
        pids: set[int] = set()
        while len(pids) < KILLS:  # at any moment: while it starts, loads, compiles or serves
            await asyncio.sleep(draw.random() * 6)
            pid = supervisor.pid
            if pid is not None and pid not in pids:
                pids.add(pid)
                os.kill(pid, number)
        killing = False
        await asyncio.wait_for(asyncio.gather(*clients), 60)
        await asyncio.wait_for(supervisor.wait_ready(), 60)
        assert await asyncio.gather(*(tokens(supervisor, 100 + i) for i in range(8))) == right
        assert ends["right"] > KILLS
        assert ends["gone"] > 0
        assert supervisor.num_streams == 0
        await supervisor.stop()
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids), "every child was reaped"

    before = descriptors()
    began = time.monotonic()
    asyncio.run(main())
    assert descriptors() == before
    print(f"{KILLS} times {number.name} in {time.monotonic() - began:.0f} s")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def to_the_end(stream: TokenStream) -> None:
    while True:
        await stream.next()


@pytest.mark.timeout(300)
def test_a_step_that_raises_ends_the_engine_and_says_why() -> None:
    async def main() -> None:
        supervisor = EngineSupervisor(CONFIG, policy=RestartPolicy(delays_s=(0.01,)), faults=True)
        supervisor.start()
        await supervisor.wait_ready()
        stream = supervisor.submit([80], SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True))
        await stream.next()
        await supervisor.call("fault", "raise")
        with pytest.raises(EngineError, match="a fault was asked for"):
            await rest(stream)
        assert "a fault was asked for" in supervisor.state.error
        await asyncio.wait_for(supervisor.wait_ready(), 60)
        assert len(await tokens(supervisor, 100)) == 40
        await supervisor.stop()

    asyncio.run(main())
