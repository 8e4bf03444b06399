"""Publishes batches of prefix-cache events over ZeroMQ as vLLM does, and gives past ones again.

PUB sends (topic, sequence as 8 bytes big-endian, payload). The optional ROUTER takes (identity, empty, first sequence)
and answers with the batches it still has from there on, then with sequence -1 and an empty payload. Needs pyzmq, the
extra `fleet`; it is imported when a publisher is made.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from types import ModuleType
from typing import Any

from jaxpaged.errors import ConfigError
from jaxpaged_server.kv_events_config import KVEventsConfig

OPTION = "kv_events_config"
END = (-1).to_bytes(8, "big", signed=True)
CLOSE_S = 1.0
"""Seconds that closing may take to hand over what is still queued."""
_BRIDGE = "inproc://jaxpaged-kv-events"


class KVPublisher:
    """One thread owns the outer sockets; `publish` may be called from one other thread and never blocks.

    Raises ConfigError where pyzmq is missing or an endpoint cannot be had.
    """

    def __init__(self, config: KVEventsConfig, *, log: logging.Logger | None = None) -> None:
        assert config.enabled, "nothing is to be published"
        zmq = _zmq(config)
        self.dropped = 0
        """Batches that were not published, since the queue was full. Subscribers see a gap in the sequence."""
        self._zmq = zmq
        self._topic = config.topic.encode()
        self._sequence = itertools.count()
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=config.buffer_steps)
        self._log = log or logging.getLogger(__name__)
        self._context = zmq.Context()
        self._inner = self._context.socket(zmq.PULL)
        self._inner.set_hwm(config.max_queue_size)
        self._inner.bind(_BRIDGE)
        self._outer = self._context.socket(zmq.PUSH)
        self._outer.set_hwm(1)  # of the pair's two marks, the inner one counts
        self._outer.connect(_BRIDGE)
        self._replay: Any = None
        try:
            self._pub = self._open(zmq.PUB, "endpoint", config.endpoint, hwm=config.hwm)
            if config.replay_endpoint is not None:
                # a router drops what does not fit: a whole buffer and its end must, beside half a mark's worth that
                # was taken but that ZeroMQ has not accounted for yet
                hwm = 2 * (config.buffer_steps + 1)
                self._replay = self._open(zmq.ROUTER, "replay_endpoint", config.replay_endpoint, hwm=hwm)
        except ConfigError:
            self._context.destroy(linger=0)
            raise
        if not config.endpoint.startswith(("tcp://127.", "ipc://", "inproc://")):
            self._log.warning("kv events: token ids of all prompts are published on %s", config.endpoint)
        self._thread = threading.Thread(target=self._run, name="kv-events", daemon=True)
        self._thread.start()

    def publish(self, payload: bytes) -> int:
        """Send a batch, see `kv_events.payload`; returns its sequence number."""
        number = next(self._sequence)
        try:
            self._outer.send_multipart((number.to_bytes(8, "big"), payload), flags=self._zmq.NOBLOCK)
        except self._zmq.Again:
            self.dropped += 1
        return number

    def close(self) -> None:
        """Publish what is queued, for CLOSE_S at most, and free the endpoints."""
        if self._thread.is_alive():
            self._outer.setsockopt(self._zmq.SNDTIMEO, int(CLOSE_S * 1000))
            try:
                self._outer.send(b"")
            except self._zmq.Again:
                self._log.warning("kv events: the queue is full, what is in it is not published")
            self._thread.join(CLOSE_S)
        if self._thread.is_alive():  # its sockets are its own until it ends
            self._log.warning("kv events: not all was published within %s s", CLOSE_S)
            return
        self._context.destroy(linger=int(CLOSE_S * 1000))

    def _open(self, kind: int, option: str, endpoint: str, *, hwm: int) -> Any:
        socket = self._context.socket(kind)
        socket.set_hwm(hwm)
        try:
            if kind == self._zmq.ROUTER or "*" in endpoint or "::" in endpoint or not endpoint.startswith("tcp://"):
                socket.bind(endpoint)
            else:
                socket.connect(endpoint)
        except self._zmq.ZMQError as error:
            raise ConfigError(name=f"{OPTION}.{option}", value=endpoint, limit=str(error)) from None
        return socket

    def _run(self) -> None:
        zmq = self._zmq
        poller = zmq.Poller()
        poller.register(self._inner, zmq.POLLIN)
        if self._replay is not None:
            poller.register(self._replay, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._inner in ready:
                frames = self._inner.recv_multipart()
                if len(frames) == 1:  # from `close`, behind all batches
                    return
                sequence, payload = frames
                self._pub.send_multipart((self._topic, sequence, payload))
                self._buffer.append((sequence, payload))
            if self._replay is not None and self._replay in ready:
                self._answer(self._replay.recv_multipart())

    def _answer(self, frames: list[bytes]) -> None:
        """Give again from a sequence number on; what is no such request is not answered."""
        if len(frames) != 3 or len(frames[2]) != 8:
            self._log.warning("kv events: a replay request of %d frames is ignored", len(frames))
            return
        client, _, first = frames
        for sequence, payload in self._buffer:
            if sequence >= first:  # big-endian, so bytes compare as their numbers do
                self._replay.send_multipart((client, b"", self._topic, sequence, payload))
        self._replay.send_multipart((client, b"", b"", END, b""))


def _zmq(config: KVEventsConfig) -> ModuleType:
    try:
        import zmq
    except ImportError:
        raise ConfigError(
            name=OPTION,
            value=config.endpoint,
            limit="publishing needs pyzmq, which is not installed",
            fix="pip install 'jaxpaged[fleet]'",
        ) from None
    return zmq
