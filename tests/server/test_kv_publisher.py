"""The publisher against real subscribers, over sockets of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxpaged_server.kv_events_config import KVEventsConfig
from jaxpaged_server.metrics.kv_publisher import KVPublisher

from jaxpaged.errors import ConfigError

zmq = pytest.importorskip("zmq")
WAIT_MS = 5000


class Peers:
    """Sockets of the other side, closed when the test ends."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._sockets: list[Any] = []

    def make(self, kind: int, *, hwm: int = 1000) -> Any:
        made = self._context.socket(kind)
        self._sockets.append(made)
        made.set_hwm(hwm)
        made.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        if kind == zmq.SUB:
            made.setsockopt(zmq.SUBSCRIBE, b"kv")
        return made

    def connect(self, kind: int, address: str, *, hwm: int = 1000) -> Any:
        made = self.make(kind, hwm=hwm)
        made.connect(address)
        return made

    def close(self) -> None:
        for made in self._sockets:
            made.close(0)
        self._context.term()


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.close()


def config(folder: Path, **changes: object) -> KVEventsConfig:
    options: dict[str, object] = {"enable_kv_cache_events": True, "topic": "kv", "endpoint": f"ipc://{folder}/pub"}
    return KVEventsConfig(**(options | changes))  # pyright: ignore[reportArgumentType]


def joined(publisher: KVPublisher, subscriber: Any) -> int:
    """Publish until the subscriber gets something; returns the number that it got."""
    for _ in range(WAIT_MS // 20):
        publisher.publish(b"hello")
        if subscriber.poll(20):
            return int.from_bytes(subscriber.recv_multipart()[1], "big")
    raise AssertionError("nothing arrived")


def test_subscribers_get_topic_sequence_and_payload_in_order(tmp_path: Path, peers: Peers) -> None:
    publisher = KVPublisher(config(tmp_path))
    subscriber = peers.connect(zmq.SUB, f"ipc://{tmp_path}/pub")
    last = joined(publisher, subscriber)
    numbers = [publisher.publish(b"%d" % i) for i in range(50)]
    assert numbers == list(range(numbers[0], numbers[0] + 50))
    got: list[tuple[int, bytes]] = []
    while len(got) < 50:
        topic, sequence, payload = subscriber.recv_multipart()
        assert topic == b"kv"
        assert len(sequence) == 8
        number = int.from_bytes(sequence, "big")
        assert number == last + 1
        last = number
        if number >= numbers[0]:
            got.append((number, payload))
    assert got == [(number, b"%d" % i) for i, number in enumerate(numbers)]
    publisher.close()
    assert publisher.dropped == 0


def test_past_batches_are_given_again(tmp_path: Path, peers: Peers) -> None:
    publisher = KVPublisher(config(tmp_path, replay_endpoint=f"ipc://{tmp_path}/replay", buffer_steps=4))
    client = peers.connect(zmq.DEALER, f"ipc://{tmp_path}/replay")

    def replay(start: int) -> list[list[bytes]]:
        client.send_multipart((b"", start.to_bytes(8, "big")))
        found: list[list[bytes]] = []
        while True:
            empty, *frames = client.recv_multipart()
            assert empty == b""
            if frames[1] == b"\xff" * 8:  # -1
                assert frames == [b"", b"\xff" * 8, b""]
                return found
            found.append(frames)

    for i in range(7):
        publisher.publish(b"%d" % i)
    found: list[list[bytes]] = []
    while not found or found[-1][2] != b"6":  # until the thread has them all
        found = replay(0)
    assert found == [[b"kv", number.to_bytes(8, "big"), b"%d" % number] for number in (3, 4, 5, 6)]
    assert [frames[2] for frames in replay(5)] == [b"5", b"6"]
    assert replay(7) == []
    for nonsense in ((b"",), (b"", b"short"), (b"", b"", b"12345678"), (b"12345678",)):
        client.send_multipart(nonsense)
    assert [frames[2] for frames in replay(6)] == [b"6"], "nonsense is not answered and does no harm"
    publisher.close()


def test_a_whole_buffer_is_given_to_a_client_that_reads_late(tmp_path: Path, peers: Peers) -> None:
    publisher = KVPublisher(config(tmp_path, replay_endpoint=f"ipc://{tmp_path}/replay"))
    subscriber = peers.connect(zmq.SUB, f"ipc://{tmp_path}/pub", hwm=100_000)
    joined(publisher, subscriber)
    last = [publisher.publish(b"%d" % i) for i in range(5000)][-1]
    while subscriber.recv_multipart()[2] != b"4999":
        pass
    client = peers.connect(zmq.DEALER, f"ipc://{tmp_path}/replay", hwm=1)
    client.send_multipart((b"", (0).to_bytes(8, "big")))
    assert client.poll(WAIT_MS)
    numbers: list[int] = []
    while (frames := client.recv_multipart())[2] != b"\xff" * 8:
        numbers.append(int.from_bytes(frames[2], "big"))
    assert numbers == list(range(last + 1)), "ZeroMQ's own mark of 1000 would have cut it short"
    publisher.close()


def test_a_full_queue_drops_and_leaves_a_gap(tmp_path: Path, peers: Peers) -> None:
    publisher = KVPublisher(config(tmp_path, max_queue_size=1))
    subscriber = peers.connect(zmq.SUB, f"ipc://{tmp_path}/pub")
    joined(publisher, subscriber)
    publisher._outer.close(0)  # nothing takes from a queue that nobody is connected to
    publisher._outer = publisher._context.socket(zmq.PUSH)
    number = publisher.publish(b"lost")
    assert publisher.dropped == 1
    publisher._outer.connect("inproc://jaxpaged-kv-events")
    assert publisher.publish(b"found") == number + 1
    while True:
        _, sequence, payload = subscriber.recv_multipart()
        if payload != b"hello":
            break
    assert (int.from_bytes(sequence, "big"), payload) == (number + 1, b"found")
    publisher.close()


def test_closing_hands_over_what_is_queued_and_frees_the_endpoint(tmp_path: Path, peers: Peers) -> None:
    for _ in range(2):  # the second one needs the address of the first
        publisher = KVPublisher(config(tmp_path))
        subscriber = peers.connect(zmq.SUB, f"ipc://{tmp_path}/pub")
        joined(publisher, subscriber)
        last = publisher.publish(b"last")
        publisher.close()
        while True:
            _, sequence, payload = subscriber.recv_multipart()
            if payload == b"last":
                break
        assert int.from_bytes(sequence, "big") == last


def test_an_endpoint_that_is_taken_is_named(tmp_path: Path) -> None:
    first = KVPublisher(config(tmp_path, endpoint="tcp://*:*"))
    port = first._pub.getsockopt(zmq.LAST_ENDPOINT).decode().rsplit(":", 1)[1]
    with pytest.raises(ConfigError, match=rf"kv_events_config.endpoint is 'tcp://\*:{port}': Address"):
        KVPublisher(config(tmp_path, endpoint=f"tcp://*:{port}"))
    with pytest.raises(ConfigError, match=r"kv_events_config.replay_endpoint is 'tcp://nowhere:x'"):
        KVPublisher(config(tmp_path, replay_endpoint="tcp://nowhere:x"))
    first.close()


def test_an_address_without_a_star_is_connected_to(tmp_path: Path, peers: Peers) -> None:
    subscriber = peers.make(zmq.SUB)
    port = subscriber.bind_to_random_port("tcp://127.0.0.1")
    publisher = KVPublisher(config(tmp_path, endpoint=f"tcp://127.0.0.1:{port}"))
    joined(publisher, subscriber)
    publisher.close()


def test_without_pyzmq_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(ConfigError, match=r"needs pyzmq, which is not installed. pip install 'jaxpaged\[fleet\]'"):
        KVPublisher(config(tmp_path))


def test_the_module_alone_does_not_import_zmq(tmp_path: Path) -> None:
    import subprocess

    code = "import sys; import jaxpaged_server.metrics.kv_publisher; print('zmq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
