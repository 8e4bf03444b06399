"""One real server with keys, under attack: whom it calls and what it opens (SSRF, PATH), where it listens (BIND,
ADMIN), what one key learns of another's prompts (SALT), and what a bad request does to others (NEIGHBOUR).

Its model is the bundled one with a poisoned token, so that a request can make its own logits not finite.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from listeners import listeners, tree
from poisoned_model import POISON, make_poisoned_model
from real_server import ROOT, RealServer, real_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
KEYS = """
keys:
  - {name: a, key: k-a}
  - {name: b, key: k-b}
  - {name: c, key: k-c, cache_salt: team}
  - {name: d, key: k-d, cache_salt: team}
"""
FLAGS = ("--max-num-seqs", "4", "--max-num-batched-tokens", "68", "--max-model-len", "128")
SECRET = "the-content-of-a-file-of-the-server"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


class Canary:
    """An HTTP server that nobody has a reason to call; counts who does."""

    def __init__(self) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.calls += 1  # first: who calls may wait for the end
            connection.close()

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """The server, what there is to steal, and what was noted of its processes."""

    server: RealServer
    folder: Path
    canary: Canary

    def with_key(self, name: str) -> RealServer:
        return RealServer(self.server.process, self.server.url, self.server.lines, f"k-{name}")

    def notes(self) -> dict[str, list[str]]:
        """Audit events of each process so far, as "event\\targuments"."""
        return {path.name: path.read_text().splitlines() for path in (self.folder / "audit").iterdir()}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder, canary = tmp_path_factory.mktemp("attacked"), Canary()
    make_poisoned_model(folder / "model")
    (folder / "audit").mkdir()
    (folder / "secret.txt").write_text(SECRET)
    (folder / "keys.yaml").write_text(KEYS)
    (folder / "keys.yaml").chmod(0o600)
    flags = ("--api-key-file", str(folder / "keys.yaml"), "--admin-socket", str(folder / "admin"))
    environ = {
        "PYTHONPATH": ":".join(map(str, (ROOT / "tests" / "audited", ROOT, ROOT / "server"))),
        "JAXPAGED_TEST_AUDIT": str(folder / "audit"),
    }
    # templates of requests are trusted: what is not run cannot reach out either
    more = ("--trust-request-chat-template", "--num-gpu-blocks-override", "60", "--served-model-name", "tiny")
    with real_server(str(folder / "model"), *flags, *FLAGS, *more, key="k-a", environ=environ) as server:
        server.wait_ready()
        form = {"type": "json_object"}
        chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1, "response_format": form}
        assert server.request(CHAT, chat)[0] == 200  # the processes of templates and grammars run from now on
        yield Attacked(server=server, folder=folder, canary=canary)
    canary.close()


def hostile_bodies(url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests with an address in each place where one could be followed."""
    yield COMPLETIONS, {"prompt": url, "max_tokens": 1}
    yield COMPLETIONS, {"prompt": "a", "max_tokens": 1, "user": url, "metadata": {"url": url, "callback": url}}
    for name in ("model", "lora", "lora_path", "adapter", "suffix", "prompt_embeds", "kv_transfer_params", "webhook"):
        yield COMPLETIONS, {"prompt": "a", name: url}
    parts: list[Any] = [
        {"type": kind, kind: value}
        for kind in ("image_url", "input_image", "video_url", "audio_url", "input_audio", "file", "input_file", "image")
        for value in (url, {"url": url}, {"data": url, "format": "wav"}, {"file_id": url})
    ]
    for content in (*([part] for part in parts), f"![image]({url}) <img src='{url}'>", [{"type": "text", "text": url}]):
        yield CHAT, {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    messages = [{"role": "user", "content": "a"}]
    call = {"id": "1", "type": "function", "function": {"name": "open", "arguments": json.dumps({"path": url})}}
    said = [{"role": "assistant", "content": "a", "tool_calls": [call]}, {"role": "tool", "content": url, "name": url}]
    yield CHAT, {"messages": messages + said, "max_tokens": 1}
    tool = {"type": "mcp", "server_url": url, "function": {"name": "a", "parameters": {"$ref": url}}}
    function = {"type": "function", "function": {"name": "a", "parameters": {"$ref": url}}}
    for choice in ("required", {"type": "function", "function": {"name": "a"}}):
        yield CHAT, {"messages": messages, "tools": [function], "tool_choice": choice}
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": url}}}
    for name, value in (
        *(("tools", [tool]), ("documents", [{"url": url}]), ("web_search_options", {"url": url})),
        *(("response_format", schema), ("audio", {"url": url}), ("mm_processor_kwargs", {"url": url})),
    ):
        yield CHAT, {"messages": messages, name: value}
    yield CHAT, {"messages": messages, "chat_template_kwargs": {"template": url, "loader": url}, "max_tokens": 1}
    for template in (
        f"{{% include '{url}' %}}",
        f"{{% import '{url}' as a %}}",
        f"{{% extends '{url}' %}}",
        f"{{{{ self._TemplateReference__context.environment.get_template('{url}') }}}}",
        f"{{{{ cycler.__init__.__globals__.os.popen('cat {url}').read() }}}}",
        f"{{{{ lipsum.__globals__['os'].listdir('{url}') }}}}",
    ):
        yield CHAT, {"messages": messages, "chat_template": template, "max_tokens": 1}
    yield "/tokenize", {"prompt": url}
    yield "/tokenize", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


def raw_requests(address: str, secret: str) -> Iterator[bytes]:
    """Requests that ask it to be a proxy, or a server of files."""
    key = b"\r\nAuthorization: Bearer k-a\r\nConnection: close\r\n"
    host = address.encode()
    yield b"GET http://" + host + b"/x HTTP/1.1\r\nHost: " + host + key + b"\r\n"
    yield b"CONNECT " + host + b" HTTP/1.1\r\nHost: " + host + key + b"\r\n"
    for name in (b"Referer", b"X-Forwarded-Host", b"Forwarded", b"X-Original-URL", b"Destination", b"traceparent"):
        yield b"GET /v1/models HTTP/1.1\r\nHost: a" + key + name + b": http://" + host + b"/x\r\n\r\n"
    for path in (
        secret,
        f"/static/..{secret}",
        f"/static/{quote(secret, safe='')}",
        f"//{secret}",
        f"/docs/..{secret}",
    ):
        for form in (path, path.replace("/..", "/%2e%2e"), path + "%00.js"):
            yield b"GET " + form.encode() + b" HTTP/1.1\r\nHost: a" + key + b"\r\n"
    yield b"GET /v1/models/" + quote(secret, safe="").encode() + b" HTTP/1.1\r\nHost: a" + key + b"\r\n"


def exchange(port: int, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
        one.sendall(raw)
        got = b""
        while data := one.recv(65536):
            got += data
    return got


def opened_elsewhere(line: str) -> bool:
    """Whether an audit event is more than a module that is imported late, or a process that looks at itself."""
    event, _, arguments = line.partition("\t")
    homes = (str(ROOT), sys.prefix, sys.base_prefix, "/proc/self/")
    looks = event in ("open", "os.listdir", "os.scandir")
    return not (looks and any(arguments.startswith(f"('{home}") for home in homes))


def test_ssrf_nothing_in_a_request_is_called_or_opened(attacked: Attacked) -> None:
    server, secret = attacked.server, str(attacked.folder / "secret.txt")
    address = f"127.0.0.1:{attacked.canary.port}"
    before = attacked.notes()
    urls = (
        f"http://{address}/x",
        "https://canary.invalid/x.png",
        f"file://{secret}",
        secret,
        "data:image/png;base64,AA",
    )
    for url in urls:
        for path, body in hostile_bodies(url):
            status, reply = server.request(path, body)
            assert status in (200, 400, 404), (path, body, reply)
            assert SECRET not in str(reply), body
    for raw in raw_requests(address, secret):
        got = exchange(server.port, raw)
        assert got.split(b" ", 2)[1] in (b"200", b"400", b"404", b"405"), (raw, got)
        assert SECRET.encode() not in got, raw
    new = {name: lines[len(before.get(name, [])) :] for name, lines in attacked.notes().items()}
    assert set(new) == set(before), "a process was started"
    assert [line for lines in new.values() for line in lines if opened_elsewhere(line)] == []
    assert attacked.canary.calls == 0


def test_ssrf_that_watch_sees_what_there_is_to_see(attacked: Attacked) -> None:
    notes = attacked.notes()
    server, engine = (notes[str(pid)] for pid in (attacked.server.process.pid, attacked.server.engine_pid()))
    model = str(attacked.folder / "model")
    assert len(notes) >= 3, "the server, its engine, and a process for templates"
    assert any(line.startswith("socket.bind\t") and "127.0.0.1" in line for line in server)
    assert any(line.startswith("subprocess.Popen\t") for line in server)
    assert any(line.startswith("open\t") and f"{model}/config.json" in line for line in engine)
    assert all(any(opened_elsewhere(line) for line in lines) for lines in notes.values())
    exchange(attacked.canary.port, b"")
    assert attacked.canary.calls == 1
    attacked.canary.calls = 0


def test_bind_one_address_is_listened_on_and_the_operators_socket(attacked: Attacked) -> None:
    admin = attacked.folder / "admin"
    server, *children = tree(attacked.server.process.pid)
    assert len(children) >= 2, "the engine, and a process for templates"
    assert listeners(server) == {f"tcp 127.0.0.1:{attacked.server.port}", f"unix {admin}"}
    assert {child: listeners(child) for child in children} == {child: set() for child in children}
    mode = admin.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_bind_that_list_holds_each_kind_of_socket(tmp_path: Path) -> None:
    before = listeners(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_UNIX) as unix, socket.create_connection(tcp.getsockname()):
            unix.bind(str(tmp_path / "s"))
            unix.listen()
            named = {f"{kind} 127.0.0.1:{one.getsockname()[1]}" for kind, one in (("tcp", tcp), ("udp", udp))}
            assert listeners(os.getpid()) - before == {*named, f"unix {tmp_path / 's'}"}


def test_admin_what_an_operator_may_do_is_on_no_port(attacked: Attacked) -> None:
    for path in ("/reset_prefix_cache", "/abort_requests", "/pause", "/resume", "/start_profile", "/stop_profile"):
        assert attacked.server.request(path, {})[0] == 404, path


def cached(server: RealServer, ids: list[int], **more: Any) -> int:
    status, reply = server.request(COMPLETIONS, {"prompt": ids, "max_tokens": 1, "temperature": 0, **more})
    assert status == 200, reply
    return reply["usage"]["prompt_tokens_details"]["cached_tokens"]


def prefix_counts(server: RealServer, least_looked_up: float = 0.0) -> tuple[float, float]:
    """Tokens that were looked up in the prefix cache and those found, when nothing more is on its way from the engine,
    which tells them four times a second."""
    before, now, until = None, (0.0, 0.0), time.monotonic() + 20
    while (before != now or now[0] < least_looked_up) and time.monotonic() < until:
        time.sleep(0.6)
        queries, hits = (server.metric(f"vllm:prefix_cache_{name}_total") for name in ("queries", "hits"))
        before, now = now, (queries, hits)
    return now


def test_salt_no_key_sees_what_another_has_asked(attacked: Attacked) -> None:
    a, b, c, d = (attacked.with_key(name) for name in "abcd")
    ids = list(range(500, 600))
    looked_up, found = prefix_counts(a)
    assert [cached(a, ids), cached(a, ids)] == [0, 96]
    for guess in ({}, {"cache_salt": "a"}, {"cache_salt": "k-a"}, {"cache_salt": "team"}):
        assert cached(b, ids, **guess) == 0
    assert [cached(c, ids), cached(d, ids)] == [0, 96], "they share a salt"
    assert [cached(a, ids, cache_salt="x"), cached(a, ids, cache_salt="x"), cached(b, ids, cache_salt="x")] == [
        0,
        96,
        0,
    ]
    assert prefix_counts(a, looked_up + 1100) == (looked_up + 1100, found + 3 * 96)


VICTIMS: list[dict[str, Any]] = [
    {"prompt": "def fibonacci(n):", "temperature": 0},
    {"prompt": [5, 6, 7] * 20, "temperature": 0.9, "seed": 7, "top_k": 50},
    {"prompt": "import os\n", "temperature": 0.7, "seed": 11, "repetition_penalty": 1.2, "frequency_penalty": 0.5},
]
FINITE: list[dict[str, Any]] = [
    {"logit_bias": {str(token): 100.0 for token in range(512)}, "temperature": 1e-320},
    {"logit_bias": {str(token): -100.0 for token in range(3584, 4096)}, "temperature": 100.0, "min_p": 1.0},
    {"repetition_penalty": 100.0, "presence_penalty": 2.0, "frequency_penalty": -2.0, "top_p": 1e-300},
    {"repetition_penalty": 0.01, "min_tokens": 20, "stop_token_ids": list(range(128)), "top_k": 2**31 - 1},
]
HEAVY: list[dict[str, Any]] = [
    {"structured_outputs": {"regex": "((a|b|c|d){1,40}e?){1,40}"}},
    {"structured_outputs": {"grammar": 'start: (word " "?)+\nword: "a" word "b" | "ab" | start'}},
    {"structured_outputs": {"json": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#"}}}}}},
    {"structured_outputs": {"choice": [f"{i:05}" * 8 for i in range(4000)]}},
    {"structured_outputs": {"regex": "(a{1,1000}){1,1000}"}},
    {"response_format": {"type": "json_object"}},
]
REFUSED: list[dict[str, Any]] = [
    *({"prompt": [5, token]} for token in (-1, 4096, 2**31, 2**63, 1.5, True)),
    *({"stop_token_ids": [token]} for token in (-1, 4096, 2**31 - 1)),
    *({"logit_bias": {token: 1}} for token in ("-1", "4096", "9999999999", "a")),
    {"prompt": [5] * 128},
    {"temperature": -1},
    *({"structured_outputs": {"regex": regex}} for regex in ("(", "(?=a)b", "\\1", "[a-")),
    *({"structured_outputs": {"grammar": text}} for text in ("start: other", "start: /(/", "{}", "root ::= [")),
    *({"structured_outputs": {"json": schema}} for schema in ({"not": {}}, {"$ref": "#/a"}, "{", {"pattern": "("})),
    {"structured_outputs": {"json": {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}}},
]


def answers(server: RealServer, salt: str) -> list[Any]:
    """What each victim is told, all at the same time."""

    def one(body: dict[str, Any]) -> Any:
        asked = {"max_tokens": 20, "logprobs": 3, "return_token_ids": True, "ignore_eos": True, "cache_salt": salt}
        status, reply = server.request(COMPLETIONS, {**asked, **body})
        assert status == 200, reply
        return reply["choices"]

    with ThreadPoolExecutor(len(VICTIMS)) as pool:
        return list(pool.map(one, VICTIMS))


def test_neighbour_a_hostile_request_changes_no_other_and_ends_alone(attacked: Attacked) -> None:
    """The server has room for four: the fourth row is the hostile one's, again and again, beside the victims'."""
    victims, hostile = attacked.with_key("a"), attacked.with_key("b")
    alone = answers(victims, "alone")
    done = threading.Event()
    finishes: list[Any] = []

    def attack() -> None:
        while not done.is_set():
            for bad in ([POISON], [9, POISON, 9], [9] * 100 + [POISON]):
                status, reply = hostile.request(COMPLETIONS, {"prompt": bad, "max_tokens": 4})
                finishes.append((status, reply["error"]["message"]))
            for fields in FINITE + HEAVY:
                status, reply = hostile.request(COMPLETIONS, {"prompt": [9, 10], "max_tokens": 20, **fields})
                assert status == 200, (fields, reply)
                assert reply["choices"][0]["finish_reason"] in ("length", "stop"), (fields, reply)
            for fields in REFUSED:
                assert hostile.request(COMPLETIONS, {"prompt": [9, 10], "max_tokens": 4, **fields})[0] == 400, fields

    with ThreadPoolExecutor(1) as pool:
        attacking = pool.submit(attack)
        try:
            beside = [answers(victims, f"beside-{i}") for i in range(6)]
        finally:
            done.set()
        attacking.result()
    assert beside == [alone] * 6
    assert {status for status, _ in finishes} == {500}
    assert all("finite" in message for _, message in finishes), finishes[:3]
    assert victims.request("/health/ready")[0] == 200
    assert victims.metric("jaxpaged:engine_restarts_total") == 0
