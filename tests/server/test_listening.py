"""Addresses: what cannot be listened on is named, and an open door is told of."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from jaxpaged_server import lifecycle
from jaxpaged_server.access.keys import Keys
from jaxpaged_server.lifecycle import Server
from jaxpaged_server.listening import close_sockets, listen
from jaxpaged_server.settings import ServerConfig
from served import served

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError

Resolve = Callable[..., None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Lets every name stand for these addresses."""

    def stand_for(*addresses: str) -> None:
        def found(host: str | None, port: int, **_: Any) -> list[Any]:
            del host
            families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
            return [(f, socket.SOCK_STREAM, 6, "", (a, port)) for f, a in zip(families, addresses, strict=True)]

        monkeypatch.setattr(socket, "getaddrinfo", found)

    return stand_for


def test_a_name_with_an_address_that_is_not_here_is_refused_by_that_address(resolve: Resolve) -> None:
    resolve("127.0.0.1", "192.0.2.1")  # of TEST-NET-1, which no machine has
    with pytest.raises(ConfigError) as refused:
        listen(ServerConfig(host="localhost", port=0))
    told = str(refused.value)
    assert "'localhost:0': it cannot be listened on at 192.0.2.1, which localhost stands for: Cannot assign" in told
    assert "192.0.2.1 is no address of this machine; give one that is: --host 127.0.0.1" in told


def test_a_family_that_the_machine_does_not_have_is_refused_likewise(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve("127.0.0.1", "::1")
    real, made = socket.socket, list[socket.socket]()

    def without_ipv6(family: int = socket.AF_INET, *more: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        made.append(real(family, *more))
        return made[-1]

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with pytest.raises(ConfigError, match=r"at ::1, which localhost stands for: Address family not supported.*--host"):
        listen(ServerConfig(host="localhost", port=0))
    assert [one.fileno() for one in made] == [-1], "the one that was opened is closed again"


def test_a_port_that_is_taken_is_told_as_such(resolve: Resolve) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        resolve("127.0.0.1", "127.0.0.2")
        with pytest.raises(ConfigError, match=r"at 127\.0\.0\.2, .* already in use\. Stop what listens there"):
            listen(ServerConfig(host="localhost", port=port))
        with pytest.raises(ConfigError, match=r"it cannot be listened on: Address already in use"):
            listen(ServerConfig(host="127.0.0.2", port=port))


def test_all_addresses_of_a_name_have_the_same_port(resolve: Resolve) -> None:
    resolve("127.0.0.1", "127.0.0.2")
    sockets = listen(ServerConfig(host="localhost", port=0))
    hosts, ports = zip(*(one.getsockname() for one in sockets.public), strict=True)
    close_sockets(sockets)
    assert hosts == ("127.0.0.1", "127.0.0.2")
    assert len(set(ports)) == 1
    assert not sockets.paths


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [("0.0.0.0", [], 1), ("127.0.0.1", [], 0), ("localhost", [], 0), ("0.0.0.0", ["k"], 0)],
)
async def test_a_server_that_is_open_to_others_says_so_once(
    host: str, keys: list[str], warned: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = ServerConfig(host=host, port=0)
    async with served(keys=Keys(plain=keys)) as it:
        monkeypatch.setattr(lifecycle, "make_services", lambda *_: it.services)
        with caplog.at_level(logging.WARNING, "jaxpaged"):
            async with Server.open(EngineConfig(), config):
                pass
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == warned
    assert all("asks for no key" in line and "--api-key-file" in line and "--host 127.0.0.1" in line for line in told)
