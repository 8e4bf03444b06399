"""The bundled model's prefix cache as a subscriber sees it: what a prompt leaves, a reset, and the engine's end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jaxpaged_server.engine_process.restart_policy import RestartPolicy
from jaxpaged_server.engine_process.supervisor import EngineSupervisor
from jaxpaged_server.kv_events_config import KVEventsConfig
from jaxpaged_server.metrics.kv_events import payload
from jaxpaged_server.metrics.kv_publisher import KVPublisher

from jaxpaged.config import EngineConfig
from jaxpaged.request import SamplingParams

zmq = pytest.importorskip("zmq")
CONFIG = EngineConfig(
    max_model_len=128,
    max_num_seqs=1,
    max_num_batched_tokens=128,
    num_gpu_blocks_override=12,
    block_size=16,
    warmup=False,
)
PROMPT = list(range(100, 140))
ONE = SamplingParams(temperature=0.0, max_tokens=1)


class Subscriber:
    """Batches as they come, decoded."""

    def __init__(self, address: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(address)
        self.last: int | None = None

    async def next(self) -> list[dict[str, Any]]:
        """Events of the next batch, which must follow the one before it."""
        until = time.monotonic() + 60
        while not self.socket.poll(0):
            assert time.monotonic() < until, "no event came"
            await asyncio.sleep(0.01)
        _, sequence, body = self.socket.recv_multipart()
        number = int.from_bytes(sequence, "big")
        assert self.last is None or number == self.last + 1
        self.last = number
        at, events, rank = msgspec.msgpack.decode(body)
        assert abs(time.time() - at) < 60
        assert rank == 0
        return events

    def close(self) -> None:
        self.context.destroy(linger=0)


async def ask(supervisor: EngineSupervisor, prompt: list[int], salt: str = "") -> int:
    """One token; returns how many tokens of the prompt were cached."""
    stream = supervisor.submit(prompt, ONE, salt)
    try:
        items = await stream.next()
    finally:
        stream.close()
    return items[0].num_cached


async def test_a_subscriber_follows_the_engines_cache(tmp_path: Path) -> None:
    publisher = KVPublisher(KVEventsConfig(enable_kv_cache_events=True, endpoint=f"ipc://{tmp_path}/kv"))
    subscriber = Subscriber(f"ipc://{tmp_path}/kv")
    supervisor = EngineSupervisor(CONFIG, policy=RestartPolicy(delays_s=(0.01,)))
    supervisor.add_cache_listener(lambda told: publisher.publish(payload(told, supervisor.info)))
    supervisor.start()
    try:
        await supervisor.wait_ready()
        assert await ask(supervisor, PROMPT) == 0
        (stored,) = await subscriber.next()
        assert stored["type"] == "BlockStored"
        assert stored["token_ids"] == PROMPT[:32]
        assert (stored["block_size"], stored["parent_block_hash"], stored["group_idx"]) == (16, None, 0)
        assert len(set(stored["block_hashes"])) == 2
        assert stored["extra_keys"] == [None, None]

        assert await ask(supervisor, PROMPT) == 32, "what was published is what is hit"
        assert await ask(supervisor, [*PROMPT[:32], *range(200, 220)]) == 32
        (more,) = await subscriber.next()
        assert more["parent_block_hash"] == stored["block_hashes"][1]
        assert more["token_ids"] == list(range(200, 216))

        assert await ask(supervisor, PROMPT, salt="team-a") == 0
        (private,) = await subscriber.next()
        assert not set(private["block_hashes"]) & set(stored["block_hashes"])
        assert private["extra_keys"][0] != ["team-a"]

        for first in (300, 400):  # the pool has 11 blocks: the oldest ones must go
            await ask(supervisor, list(range(first, first + 96)))
        gone: set[int] = set()
        while len(gone) < 3:
            gone |= {
                one
                for event in await subscriber.next()
                if event["type"] == "BlockRemoved"
                for one in event["block_hashes"]
            }
        assert gone >= {more["block_hashes"][0], *stored["block_hashes"]}

        assert await supervisor.call("reset_prefix_cache")
        while (events := await subscriber.next()) != [{"type": "AllBlocksCleared"}]:
            assert {event["type"] for event in events} <= {"BlockStored", "BlockRemoved"}

        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        assert await subscriber.next() == [{"type": "AllBlocksCleared"}], "an engine's end clears its cache"
    finally:
        await supervisor.stop()
        await asyncio.to_thread(publisher.close)
        subscriber.close()


async def test_an_engine_without_listeners_keeps_no_journal(tmp_path: Path) -> None:
    from fake_engine import __file__ as fake

    told = tmp_path / "told"
    command = (os.sys.executable, fake, "--told", str(told))  # pyright: ignore[reportAttributeAccessIssue]
    for listens in (False, True):
        supervisor = EngineSupervisor(CONFIG, command=command)
        if listens:
            supervisor.add_cache_listener(lambda _: None)
        supervisor.start()
        await supervisor.wait_ready()
        await supervisor.stop()
    starts = [line for line in told.read_text().splitlines() if line.startswith("Start(")]
    assert [re.findall(r"cache_events=(\w+)", line) for line in starts] == [["False"], ["True"]]
