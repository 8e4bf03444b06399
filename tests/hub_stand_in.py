"""A stand-in of the hub: models' files over HTTP as huggingface_hub asks for them, and all that was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMITS = {"main": "1" * 40, "v2": "2" * 40}
"""Revisions and their commits."""


@dataclass(kw_only=True)
class Asked:
    """One request that came."""

    method: str
    path: str
    host: str
    token: str | None
    range: str | None


@dataclass(kw_only=True)
class StandIn:
    """Models by name, each with its files by commit. `token`: whoever has it may read gated models.

    refusals: path -> status and headers, told in place of an answer. breaks: file -> bytes after which its connection
    breaks, once. elsewhere: address that files are redirected to.
    """

    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    refusals: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    elsewhere: str = ""
    asked: list[Asked] = field(default_factory=list)
    address: str = ""

    @property
    def files_asked(self) -> list[str]:
        """Names of the files whose contents were asked for."""
        return [one.path.split("/resolve/")[1].partition("/")[2] for one in self.asked if one.method == "GET"
                and "/resolve/" in one.path]  # fmt: skip


@contextmanager
def standing_in(stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in at an address of its own."""

    class Handler(_Handler):
        hub = stand_in

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    stand_in.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, format: str, *args: object) -> None:
        """The list of what was asked is the log."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path = unquote(url.path)
        token = self.headers.get("Authorization")
        hub.asked.append(
            Asked(method=self.command, path=path, host=self.headers["Host"], token=token,
                  range=self.headers.get("Range"))
        )  # fmt: skip
        if path in hub.refusals:
            status, headers = hub.refusals[path]
            self._say(status, headers)
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"), recursive=parse_qs(url.query).get("recursive") == ["True"])
        elif "/resolve/" in path:
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            self._file(name, revision, file)
        else:
            self._say(404, {})

    def _api(self, path: str, *, recursive: bool) -> None:
        owner, model, *rest = path.split("/", 3)
        name = f"{owner}/{model}"
        what, revision = rest[0] if rest else "revision", rest[1] if len(rest) > 1 else "main"
        if (files := self._files(name, revision)) is None:
            return
        commit = COMMITS.get(revision, revision)
        if what == "revision":
            self._say_json({"id": name, "sha": commit, "siblings": [], "tags": [], "private": False})
        else:
            entries = [_entry(file, content) for file, content in files.items()]
            self._say_json([one for one in entries if recursive or "/" not in str(one["path"])])

    def _files(self, name: str, revision: str) -> Mapping[str, bytes] | None:
        """The files of a revision; None where the answer was a refusal."""
        hub = self.hub
        commits, commit = hub.models.get(name), COMMITS.get(revision, revision)
        if commits is None:
            return self._say(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if name in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._say(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if commit not in commits:
            return self._say(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev {revision}"})
        return commits[commit]

    def _file(self, name: str, revision: str, file: str) -> None:
        hub = self.hub
        if (files := self._files(name, revision)) is None:
            return
        if file not in files:
            return self._say(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        content = files[file]
        etag = _sha256(content) if _is_large(file) else _git_id(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMITS.get(revision, revision), "Accept-Ranges": "bytes"}
        if _is_large(file):
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
            if hub.elsewhere:
                return self._say(302, headers | {"Location": f"{hub.elsewhere}{self.path}"})
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if (asked := self.headers.get("Range")) else 0
        status = 206 if asked else 200
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._say(status, headers, content[start:], cut=hub.breaks.pop(file, None) if self.command == "GET" else None)

    def _say_json(self, value: object) -> None:
        self._say(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _say(self, status: int, headers: Mapping[str, str], body: bytes = b"", *, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _entry(file: str, content: bytes) -> dict[str, object]:
    """A file as the list of a revision has it."""
    entry: dict[str, object] = {"type": "file", "path": file, "size": len(content), "oid": _git_id(content)}
    if _is_large(file):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
    return entry


def _is_large(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
