"""Who listens where, from what Linux says of processes and their sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_TCP_LISTEN = "0A"
_UNIX_ACCEPTS = 1 << 16


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid, *(found for child in children for found in tree(child))]


def listeners(pid: int) -> set[str]:
    """The sockets of a process that take what others send: "tcp 127.0.0.1:8000", "udp ...", "unix /path"."""
    inodes = set[str]()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:  # it was closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = set[str]()
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if rest[5] in inodes and (state == _TCP_LISTEN or not protocol.startswith("tcp")):
                found.add(f"{protocol} {_address(local)}")
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split()
        if inode in inodes and int(flags, 16) & _UNIX_ACCEPTS:
            found.add(f"unix {' '.join(path)}")
    return found


def _address(text: str) -> str:
    """As people write it: the kernel writes words of four bytes in the machine's own order."""
    words, port = text.split(":")
    raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    return f"{socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)}:{int(port, 16)}"
