"""An engine process that ends, hangs or talks nonsense is started again; one that cannot be is not."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_engine
import pytest
from fake_engine import SILENT_TOKEN
from jaxpaged_server.engine_process.restart_policy import RestartPolicy
from jaxpaged_server.engine_process.supervisor import EngineState, EngineSupervisor
from jaxpaged_server.engine_process.token_stream import TokenStream
from jaxpaged_server.engine_process.watchdog import WatchLimits
from jaxpaged_server.engine_process.wire import Beat, Item

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, EngineError, PromptError
from jaxpaged.request import SamplingParams

ROOT = Path(__file__).parents[2]
THREE = SamplingParams(max_tokens=3)
PATIENT = WatchLimits(check_s=0.05)
QUICK = WatchLimits(silence_s=0.5, step_s=0.3, check_s=0.05, dump_s=0.2)
"""For an engine that is to be found to hang; on a busy machine any other may be, too."""
Body = Callable[[EngineSupervisor], Awaitable[None]]


def command(behaviour: str, told: Path | None = None) -> list[str]:
    words = [sys.executable, fake_engine.__file__, "--behaviour", behaviour]
    return words if told is None else [*words, "--told", str(told)]


@asynccontextmanager
async def supervised(behaviour: str = "serve", *, restarts: int = 3, told: Path | None = None, **options: Any):
    supervisor = EngineSupervisor(
        EngineConfig(),
        policy=RestartPolicy(delays_s=(0.01,) * restarts),
        command=command(behaviour, told),
        **{"limits": PATIENT, **options},
    )
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


def serving(body: Body, behaviour: str = "serve", **options: Any) -> None:
    """Run a test's body beside a supervisor of a fake engine that is ready."""

    async def main() -> None:
        async with supervised(behaviour, **options) as supervisor:
            await asyncio.wait_for(supervisor.wait_ready(), 5)
            await body(supervisor)

    asyncio.run(main())


async def read(stream: TokenStream) -> list[Item]:
    """All items of a stream."""
    items: list[Item] = []
    while not items or items[-1].finish is None:
        items += await asyncio.wait_for(stream.next(), 5)
    return items


def exists(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No descriptor and no child, dead or alive, outlives a test."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    assert not children.exists() or not children.read_text().split()


def test_the_front_end_needs_no_jax() -> None:
    program = (
        "import sys, jaxpaged_server.engine_process.supervisor; "
        "sys.exit(str(sorted({'jax', 'numpy', 'torch'} & set(sys.modules))))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_it_says_that_an_engine_is_lost_before_its_streams_do() -> None:
    """Else whoever takes the place of one that failed is sent to the same dead engine, and so a whole queue."""

    async def body(supervisor: EngineSupervisor) -> None:
        assert supervisor.pid is not None
        phases: list[str] = []

        async def reader() -> None:
            stream = supervisor.submit([SILENT_TOKEN], THREE)
            await stream.next()  # its one token
            with pytest.raises(EngineError):
                await stream.next()
            phases.append(supervisor.state.phase)

        readers = [asyncio.create_task(reader()) for _ in range(3)]
        await asyncio.sleep(0.05)
        os.kill(supervisor.pid, signal.SIGKILL)
        await asyncio.wait_for(asyncio.gather(*readers), 5)
        assert phases == ["restarting"] * 3

    serving(body)


def test_a_start_goes_through_its_phases() -> None:
    async def main() -> None:
        supervisor = EngineSupervisor(EngineConfig(), command=command("serve"))
        assert supervisor.state == EngineState(phase="stopped")
        with pytest.raises(EngineError, match="engine is 'stopped'"):
            supervisor.submit([1], THREE)
        supervisor.start()
        assert supervisor.state.phase == "starting"
        with pytest.raises(EngineError, match="engine is 'starting'"):
            supervisor.submit([1], THREE)
        seen = {supervisor.state}
        while supervisor.state.phase != "ready":
            await asyncio.sleep(0)
            seen.add(supervisor.state)
        assert {state.phase for state in seen} == {"starting", "compiling", "ready"} or len(seen) == 2
        assert await supervisor.wait_ready() == fake_engine.INFO == supervisor.info
        pid = supervisor.pid
        assert pid is not None
        assert exists(pid)
        await supervisor.stop()
        assert supervisor.state.phase == "stopped"
        assert not exists(pid)
        with pytest.raises(EngineError, match="stop"):
            await supervisor.wait_ready()
        await supervisor.stop()  # again: nothing to do

    asyncio.run(main())


def test_streams_give_what_came_and_no_more() -> None:
    async def body(supervisor: EngineSupervisor) -> None:
        items = await read(supervisor.submit([5, 6], THREE))
        assert [(item.token, item.finish) for item in items] == [(7, None), (8, None), (9, "length")]
        many = await asyncio.gather(*(read(supervisor.submit((i,), THREE)) for i in range(10, 60)))
        assert [[item.token for item in items] for items in many] == [[i + 1, i + 2, i + 3] for i in range(10, 60)]
        assert supervisor.num_streams == 0
        refused = supervisor.submit([100], THREE)
        with pytest.raises(ConfigError, match="prompt is 100: no such token"):
            await refused.next()
        assert refused.ended
        with pytest.raises(PromptError, match="cannot be sent"):
            supervisor.submit([2**70], THREE)
        assert supervisor.num_streams == 0

    serving(body)


def test_a_stream_that_is_left_is_told_to_the_engine_once(tmp_path: Path) -> None:
    told = tmp_path / "told"

    async def body(supervisor: EngineSupervisor) -> None:
        aborted, finished = (supervisor.submit([SILENT_TOKEN], THREE) for _ in range(2))
        for stream, leave in ((aborted, aborted.close), (finished, finished.finish)):
            assert (await stream.next())[0].num_cached == 3
            leave()
            leave()
            stream.close()
            with pytest.raises(EngineError, match="nobody reads it"):
                await stream.next()
        done = supervisor.submit([1], THREE)
        await read(done)
        done.close()
        waiting = asyncio.create_task(supervisor.submit([SILENT_TOKEN], THREE).next())
        await waiting
        assert supervisor.num_streams == 1
        await supervisor.call("anything")  # all of it has been read by now

    serving(body, told=told)
    lines = told.read_text().splitlines()
    assert [line for line in lines if line.startswith(("Abort", "Finish"))] == ["Abort(ids=[1])", "Finish(id=2)"]


def test_all_requests_can_be_aborted_at_once(tmp_path: Path) -> None:
    told = tmp_path / "told"

    async def body(supervisor: EngineSupervisor) -> None:
        streams = [supervisor.submit([SILENT_TOKEN], THREE) for _ in range(3)]
        for stream in streams:
            await stream.next()
        assert supervisor.abort_all() == 3
        assert supervisor.abort_all() == 0
        assert [(await stream.next())[0].finish for stream in streams] == ["abort"] * 3
        await supervisor.call("anything")

    serving(body, told=told)
    assert "Abort(ids=[1, 2, 3])" in told.read_text()


def test_calls_are_answered_or_run_out_of_time() -> None:
    async def body(supervisor: EngineSupervisor) -> None:
        assert await asyncio.gather(*(supervisor.call("say", str(i)) for i in range(3))) == ["say 0", "say 1", "say 2"]
        with pytest.raises(EngineError, match=r"nothing is 'x': no answer came in 0.05 s"):
            await supervisor.call("nothing", "x", timeout_s=0.05)

    serving(body)


def test_beats_reach_their_listeners() -> None:
    async def body(supervisor: EngineSupervisor) -> None:
        beats: list[Beat] = []

        def bad(_: Beat) -> None:
            raise ZeroDivisionError

        supervisor.add_beat_listener(bad)
        supervisor.add_beat_listener(beats.append)
        while len(beats) < 2:
            await asyncio.sleep(0.01)
        assert supervisor.beat is beats[-1]
        assert supervisor.silence_s is not None
        assert 0 <= supervisor.silence_s < 0.5
        await supervisor.stop()
        assert supervisor.silence_s is None

    serving(body)


def test_streams_of_a_killed_engine_raise_at_once_and_another_serves() -> None:
    async def body(supervisor: EngineSupervisor) -> None:
        streams = [supervisor.submit([SILENT_TOKEN], THREE) for _ in range(3)]
        reads = [asyncio.create_task(stream.next()) for stream in streams]
        await asyncio.gather(*reads)  # the first token
        reads = [asyncio.create_task(stream.next()) for stream in streams]
        answer = asyncio.create_task(supervisor.call("nothing"))
        await asyncio.sleep(0)
        first = supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        began = time.monotonic()
        ends = await asyncio.gather(*reads, answer, return_exceptions=True)
        assert time.monotonic() - began < 1
        assert [type(end) for end in ends] == [EngineError] * 4
        assert len({id(end) for end in ends}) == 4
        with pytest.raises(EngineError, match="engine is"):
            supervisor.submit([1], THREE)
        await asyncio.wait_for(supervisor.wait_ready(), 5)
        assert supervisor.state.restarts == 1
        assert supervisor.pid != first
        assert [item.token for item in await read(supervisor.submit([1], THREE))] == [2, 3, 4]

    serving(body)


@pytest.mark.parametrize(
    ("behaviour", "restarts", "says"),
    [
        ("die", 2, r"process \d+ ended with status 3"),
        ("hang", 0, r"a step has not returned for 0\.\d s; 0\.3 s are allowed; process \d+ was ended by SIGKILL"),
        ("silent", 0, r"nothing was heard of it for 0\.\d s; 0\.5 s are allowed; process \d+ was ended by SIGKILL"),
        ("mute", 0, r"nothing was heard of it for 1\.\d s; 1 s are allowed; process \d+ was ended by SIGKILL"),
        ("garbage", 0, "it sent what is no message: "),
    ],
)
def test_an_engine_that_is_never_well_is_given_up(
    behaviour: str, restarts: int, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        limits = QUICK if behaviour in ("hang", "silent") else replace(PATIENT, start_s=1.0, dump_s=0.2)
        async with supervised(behaviour, restarts=restarts, limits=limits) as supervisor:
            error = await asyncio.wait_for(supervisor.gone, 10)
            assert isinstance(error, EngineError)
            assert supervisor.state.phase == "failed"
            assert supervisor.state.error == str(error)
            assert supervisor.state.restarts == restarts
            assert re.search(says, str(error)), str(error)
            with pytest.raises(EngineError, match=says):
                await supervisor.wait_ready()

    asyncio.run(main())
    dumped = capfd.readouterr().err.count("fake_engine.py")
    assert (dumped > 0) is (behaviour in ("hang", "silent", "mute")), "the stacks of what hangs are dumped"


def test_an_engine_that_cannot_be_is_not_tried_again() -> None:
    async def main() -> None:
        async with supervised("refuse") as supervisor:
            with pytest.raises(ConfigError, match="dtype is 'int3': there is none"):
                await asyncio.wait_for(supervisor.wait_ready(), 5)
            assert isinstance(await supervisor.gone, ConfigError)
            assert (supervisor.state.phase, supervisor.state.restarts) == ("failed", 0)

    asyncio.run(main())


def test_a_command_that_does_not_exist_is_given_up() -> None:
    async def main() -> None:
        supervisor = EngineSupervisor(
            EngineConfig(), command=["/no/such/program"], policy=RestartPolicy(delays_s=(0.01,))
        )
        supervisor.start()
        with pytest.raises(EngineError, match="cannot be started"):
            await asyncio.wait_for(supervisor.wait_ready(), 5)
        await supervisor.stop()

    asyncio.run(main())


@pytest.mark.parametrize("moment_s", [0.0, 0.05, 0.3])
def test_a_stop_during_the_start_leaves_nothing(moment_s: float) -> None:
    async def main() -> None:
        async with supervised("mute") as supervisor:
            await asyncio.sleep(moment_s)
            await supervisor.stop(grace_s=0.3)  # it reads nothing

    asyncio.run(main())


def test_a_stop_while_a_restart_is_due_does_not_wait_for_it() -> None:
    async def main() -> None:
        supervisor = EngineSupervisor(EngineConfig(), command=command("die"), policy=RestartPolicy(delays_s=(60.0,)))
        supervisor.start()
        while supervisor.state.left_s is None or supervisor.state.phase != "restarting":
            await asyncio.sleep(0.01)
        assert supervisor.state.left_s == 60.0
        began = time.monotonic()
        await supervisor.stop()
        assert time.monotonic() - began < 1
        assert supervisor.state.phase == "stopped"

    asyncio.run(main())


def test_an_engine_that_does_not_stop_is_killed_after_its_grace() -> None:
    async def body(supervisor: EngineSupervisor) -> None:
        began = time.monotonic()
        await supervisor.stop(grace_s=0.2)
        assert 0.2 <= time.monotonic() - began < 1.5
        assert supervisor.state.phase == "stopped"

    serving(body, "stubborn")


def test_the_engine_ends_with_its_parent(tmp_path: Path) -> None:
    """The real one, while it starts: importing and loading are what it does when its parent is killed."""
    program = """
import asyncio, sys
from jaxpaged.config import EngineConfig
from jaxpaged_server.engine_process.supervisor import EngineSupervisor
async def main():
    supervisor = EngineSupervisor(EngineConfig(compile_cache="off"))
    supervisor.start()
    while supervisor.state.phase == "starting":
        await asyncio.sleep(0.01)
    print(supervisor.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert exists(pid)
        os.kill(pid, signal.SIGINT)  # the parent decides, not the terminal
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
        assert exists(pid)
        parent.kill()
    deadline = time.monotonic() + 2
    while exists(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not exists(pid)
