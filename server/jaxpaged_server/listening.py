"""The sockets of a server, bound before anything else, so that a taken port is told at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from ipaddress import ip_address

from jaxpaged.errors import ConfigError
from jaxpaged_server.settings import ServerConfig

BACKLOG = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """Bound and listening. address: for people."""

    public: tuple[socket.socket, ...]
    admin: socket.socket | None
    address: str
    paths: tuple[str, ...] = ()  # of Unix sockets, to be removed at the end

    @property
    def reach_others(self) -> bool:
        """Whether other machines could connect."""
        return any(
            one.family != socket.AF_UNIX and not ip_address(one.getsockname()[0]).is_loopback for one in self.public
        )


def listen(config: ServerConfig) -> Sockets:
    """Open what the settings ask for. Raises ConfigError naming the address that cannot be had."""
    opened: list[socket.socket] = []
    paths: list[str] = []
    try:
        if config.uds is not None:
            opened.append(_unix("uds", config.uds, mode=0o660))
            paths.append(config.uds)
            address = f"unix:{config.uds}"
        else:
            opened += _tcp(config.host, config.port)
            host, port = opened[0].getsockname()[:2]
            scheme = "http" if config.ssl_certfile is None else "https"
            address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        public = tuple(opened)
        admin = None
        if config.admin_socket is not None:
            admin = _unix("admin_socket", config.admin_socket, mode=0o600)
            opened.append(admin)
            paths.append(config.admin_socket)
    except BaseException:
        for one in opened:
            one.close()
        raise
    return Sockets(public=public, admin=admin, address=address, paths=tuple(paths))


def close_sockets(sockets: Sockets) -> None:
    """Close them, and remove Unix sockets from the file system."""
    for one in (*sockets.public, *([sockets.admin] if sockets.admin is not None else [])):
        one.close()
    for path in sockets.paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _tcp(host: str, port: int) -> list[socket.socket]:
    """One socket per address of the name; for port 0 all get the port of the first.

    All of them or none: a client tries whichever comes first, so a server on some would be there for some.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(name="host", value=host, limit=f"it is no address of this machine: {error}") from error
    opened: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if opened and not port:
            address = (address[0], opened[0].getsockname()[1], *address[2:])
        one = None
        try:
            one = socket.socket(family, kind, protocol)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.listen(BACKLOG)
            one.setblocking(False)
        except OSError as error:
            for other in (*opened, *([] if one is None else [one])):
                other.close()
            raise _cannot_listen(host, port, str(address[0]), error) from error
        opened.append(one)
    return opened


def _cannot_listen(host: str, port: int, address: str, error: OSError) -> ConfigError:
    fix = "Stop what listens there, or choose another --port (0: any free one)"
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        fix = f"{address} is no address of this machine; give one that is: --host 127.0.0.1, or 0.0.0.0 for all of IPv4"
    elif error.errno in (errno.EACCES, errno.EPERM):
        fix = "Choose a --port of 1024 or above"
    of = "" if address == host else f" at {address}, which {host} stands for"
    limit = f"it cannot be listened on{of}: {error.strerror or error}"
    return ConfigError(name="address", value=f"{host}:{port}", limit=limit, fix=fix)


def _unix(name: str, path: str, *, mode: int) -> socket.socket:
    """A Unix socket; one that a server left behind is replaced, one that answers is not."""
    if os.path.exists(path):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ConfigError(name=name, value=path, limit="there is a file of that name, and it is no socket")
        if _answers(path):
            raise ConfigError(name=name, value=path, limit="another server listens on it", fix="Choose another path")
        os.unlink(path)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)  # never open wider, not even for a moment
    try:
        one.bind(path)
        one.listen(BACKLOG)
        one.setblocking(False)
    except OSError as error:
        one.close()
        raise ConfigError(name=name, value=path, limit=f"it cannot be made: {error.strerror or error}") from error
    finally:
        os.umask(before)
    return one


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.settimeout(1.0)
        try:
            one.connect(path)
        except OSError:
            return False
    return True
