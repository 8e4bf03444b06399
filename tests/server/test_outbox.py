"""The child never waits for a front end that does not read, and loses nothing of what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from jaxpaged_server.engine_process.outbox import Outbox
from jaxpaged_server.engine_process.wire import Frames, Item, Tokens, front_decoder

COUNT = 3000
WIDE = [Item(i, 1000) for i in range(100)]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def read_all(sock: socket.socket, count: int) -> list[int]:
    """The first item's token of so many messages."""
    frames, decoder, found = Frames(), front_decoder(), []
    while len(found) < count:
        for body in frames.push(sock.recv(1 << 16)):
            message = decoder.decode(body)
            assert isinstance(message, Tokens)
            found.append(message.items[0].token)
    return found


def test_nobody_waits_for_a_reader_and_order_is_kept(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    outbox = Outbox(ours)
    longest_s = 0.0
    for i in range(COUNT):
        began = time.monotonic()
        outbox.put(Tokens([Item(0, i), *WIDE]))
        longest_s = max(longest_s, time.monotonic() - began)
    assert not outbox.idle, "about 3 MB are more than a socket holds"
    assert not outbox.flush(0.01)
    assert longest_s < 0.2
    assert read_all(theirs, COUNT) == list(range(COUNT))
    assert outbox.flush(2)
    assert outbox.idle


def test_several_threads_do_not_mix_their_messages(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    outbox = Outbox(ours)

    def send(first: int) -> None:
        for i in range(COUNT // 3):
            outbox.put(Tokens([Item(0, first + i)]))

    threads = [threading.Thread(target=send, args=(10_000 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    found = read_all(theirs, COUNT)
    for thread in threads:
        thread.join()
    for i in range(3):
        assert [token for token in found if token // 10_000 == i] == [10_000 * i + j for j in range(COUNT // 3)]


@pytest.mark.parametrize("full", [False, True])
def test_a_reader_that_has_gone_is_no_error(ends: tuple[socket.socket, socket.socket], full: bool) -> None:
    ours, theirs = ends
    outbox = Outbox(ours)
    for _ in range(COUNT if full else 1):
        outbox.put(Tokens(WIDE))
    theirs.close()
    outbox.put(Tokens(WIDE))
    assert outbox.flush(2)
    outbox.put(Tokens(WIDE))
    assert outbox.idle
