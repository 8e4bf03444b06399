"""TLS over memory: who may connect, what a reload changes, and what is said of files that cannot be.

The certificates are valid until 2120. first and second signed themselves; client is signed by authority, whose key is
gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from jaxpaged_server.lifecycle import accept
from jaxpaged_server.listening import close_sockets, listen
from jaxpaged_server.settings import ServerConfig
from jaxpaged_server.tls import ServerTls

from jaxpaged.errors import ConfigError

HERE = Path(__file__).parent / "certificates"


def client(*, certificate: str | None = None, most: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(HERE / f"{certificate}.pem", HERE / f"{certificate}.key.pem")
    if most is not None:
        context.maximum_version = most
    return context


def shake_hands(server: ssl.SSLContext, peer: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end after a handshake over memory. Raises SSLError of whichever end refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    ours = peer.wrap_bio(to_client, to_server)
    waiting = [ours, theirs]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return ours
    raise AssertionError("no handshake in ten turns")


def shown_by(tls: ServerTls) -> bytes | None:
    return shake_hands(tls.context, client()).getpeercert(binary_form=True)


def der(name: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((HERE / f"{name}.pem").read_text())


def pair(folder: Path, name: str) -> None:
    """Put a certificate and its key where the server looks, as a renewal does: beside, then in its place."""
    for suffix in (".pem", ".key.pem"):
        shutil.copy(HERE / f"{name}{suffix}", folder / f"new{suffix}")
        os.replace(folder / f"new{suffix}", folder / f"server{suffix}")


@pytest.fixture
def served(tmp_path: Path) -> ServerTls:
    pair(tmp_path, "first")
    return ServerTls(certfile=tmp_path / "server.pem", keyfile=tmp_path / "server.key.pem")


def test_without_a_certificate_there_is_no_tls() -> None:
    assert ServerTls.of(ServerConfig()) is None


def test_the_certificate_is_shown_and_the_protocol_is_new(served: ServerTls) -> None:
    ours = shake_hands(served.context, client())
    assert ours.getpeercert(binary_form=True) == der("first")
    assert ours.version() == "TLSv1.3"
    assert shake_hands(served.context, client(most=ssl.TLSVersion.TLSv1_2)).version() == "TLSv1.2"
    assert served.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_reload_is_for_new_connections_and_the_context_stays(served: ServerTls, tmp_path: Path) -> None:
    context, old = served.context, shake_hands(served.context, client())
    pair(tmp_path, "second")
    assert shown_by(served) == der("first")
    served.reload()
    assert served.context is context
    assert shown_by(served) == der("second")
    assert old.getpeercert(binary_form=True) == der("first")


def test_a_reload_that_cannot_be_leaves_what_was(served: ServerTls, tmp_path: Path) -> None:
    shutil.copy(HERE / "second.pem", tmp_path / "server.pem")  # the key is still the first's
    with pytest.raises(ConfigError, match="does not belong to the certificate"):
        served.reload()
    assert shown_by(served) == der("first")


def test_changed_files_are_noticed_once(served: ServerTls, tmp_path: Path) -> None:
    assert not served.reload_if_changed()
    pair(tmp_path, "second")
    assert served.reload_if_changed()
    assert not served.reload_if_changed()
    assert shown_by(served) == der("second")
    (tmp_path / "server.pem").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        served.reload_if_changed()
    assert not served.reload_if_changed()  # told once, not every time
    assert shown_by(served) == der("second")


@pytest.mark.parametrize(("cert_reqs", "without"), [(1, True), (2, False)])
def test_clients_certificates(cert_reqs: int, without: bool) -> None:
    config = ServerConfig(
        ssl_certfile=str(HERE / "first.pem"),
        ssl_keyfile=str(HERE / "first.key.pem"),
        ssl_ca_certs=str(HERE / "authority.pem"),
        ssl_cert_reqs=cert_reqs,
    )
    tls = ServerTls.of(config)
    assert tls is not None
    shake_hands(tls.context, client(certificate="client"))
    with pytest.raises(ssl.SSLError, match="self-signed"):
        shake_hands(tls.context, client(certificate="second"))
    if without:
        shake_hands(tls.context, client())
    else:
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            shake_hands(tls.context, client())


@pytest.mark.parametrize(
    ("values", "name", "told"),
    [
        ({"certfile": "absent.pem"}, "ssl_certfile", "cannot be read: No such file"),
        ({"certfile": "first.pem"}, "ssl_certfile", "no private key in PEM in it. Give ssl_keyfile"),
        ({"certfile": "first.pem", "keyfile": "absent.pem"}, "ssl_keyfile", "cannot be read"),
        ({"certfile": "first.pem", "keyfile": "second.key.pem"}, "ssl_keyfile", "does not belong to the certificate"),
        ({"certfile": "first.pem", "keyfile": "first.pem"}, "ssl_keyfile", "no private key"),
        ({"certfile": "first.key.pem", "keyfile": "first.key.pem"}, "ssl_certfile", "no certificate in PEM"),
        ({"certfile": "first.pem", "keyfile": "first.encrypted.key.pem"}, "ssl_keyfile", "has a passphrase"),
        ({"ca_certs": "absent.pem", "cert_reqs": 2}, "ssl_ca_certs", "cannot be read"),
        ({"ca_certs": "first.key.pem", "cert_reqs": 2}, "ssl_ca_certs", "no certificates in PEM"),
    ],
)
def test_files_that_cannot_be(values: dict[str, Any], name: str, told: str) -> None:
    given = {"certfile": "first.pem", "keyfile": "first.key.pem"} if "ca_certs" in values else {}
    paths: dict[str, Any] = {
        key: HERE / value if isinstance(value, str) else value for key, value in (given | values).items()
    }
    with pytest.raises(ConfigError, match=told) as refused:
        ServerTls(**paths)
    assert refused.value.name == name


def test_a_damaged_certificate_is_named(tmp_path: Path) -> None:
    lines = (HERE / "first.pem").read_text().splitlines()
    (tmp_path / "c.pem").write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))
    with pytest.raises(ConfigError, match="certificate and key cannot be used"):
        ServerTls(certfile=tmp_path / "c.pem", keyfile=HERE / "first.key.pem")


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text((HERE / "first.pem").read_text() + (HERE / "first.key.pem").read_text())
    assert shown_by(ServerTls(certfile=both)) == der("first")


def test_ciphers_are_those_that_were_asked_for() -> None:
    files: dict[str, Any] = {"certfile": HERE / "first.pem", "keyfile": HERE / "first.key.pem"}
    tls = ServerTls(**files, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    cipher = shake_hands(tls.context, client(most=ssl.TLSVersion.TLSv1_2)).cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    with pytest.raises(ConfigError, match="ssl_ciphers is 'NONSENSE'"):
        ServerTls(**files, ciphers="NONSENSE")


async def test_a_client_who_does_not_greet_is_cut() -> None:
    config = ServerConfig(
        port=0, header_timeout_s=0.3, ssl_certfile=str(HERE / "first.pem"), ssl_keyfile=str(HERE / "first.key.pem")
    )
    sockets = listen(config)
    server = await accept(sockets.public[0], asyncio.Protocol, config, ServerTls.of(config))
    try:
        port = sockets.public[0].getsockname()[1]
        for greeting in (b"", b"\x16\x03\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(greeting)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
    finally:
        server.close()
        close_sockets(sockets)
