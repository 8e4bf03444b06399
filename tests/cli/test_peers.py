"""The runners of other engines: what they share, and the one that speaks HTTP against a server of our own."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxpaged.bench import peers
from jaxpaged.bench.kinds import KINDS
from jaxpaged.bench.peers import make_gguf, peer_records
from jaxpaged.bench.peers.peer_records import Record, Request, drive, figures, read_requests, warm_requests
from jaxpaged.tiny import TINY_MODEL

FOLDER = Path(next(iter(peers.__path__)))


class SteppedEngine:
    """Answers a token a step to at most `rows` requests; a step takes half a second."""

    def __init__(self, rows: int = 2, short: bool = False) -> None:
        self.now_s, self.rows, self.short = 0.0, rows, short
        self.left: dict[int, int] = {}
        self.most = 0

    def add(self, request: Request) -> None:
        self.left[request.index] = request.max_tokens
        self.most = max(self.most, len(self.left))

    def step(self) -> Iterator[tuple[int, int, bool]]:
        self.now_s += 0.5
        for index in list(self.left)[: self.rows]:
            self.left[index] -= 1
            finished = self.left[index] == 0 or self.short
            if finished:
                del self.left[index]
            yield index, 1, finished

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def served(engine: SteppedEngine, *requests: Request, most: int | None = None) -> dict[str, Any]:
    return figures(*drive(engine, list(requests), most, clock=lambda: engine.now_s, sleep=engine.sleep))


def request(index: int, max_tokens: int, arrival_s: float = 0.0) -> Request:
    return Request(index, [1, 2, 3], max_tokens, arrival_s)


def test_figures_mean_what_they_mean_in_this_project() -> None:
    row = served(SteppedEngine(), request(0, 3), request(1, 1), request(2, 2))
    assert (row["requests"], row["finished"], row["short"], row["errors"]) == (3, 3, 0, 0)
    assert (row["in_tokens"], row["out_tokens"], row["total_s"], row["out_tok_s"]) == (9, 6, 1.5, 4.0)
    assert (row["ttft_p50_ms"], row["tpot_p50_ms"], row["itl_p99_ms"]) == (500.0, 500.0, 500.0)
    assert row["ttft_p99_ms"] == 990.0  # 500, 500, 1000


def test_requests_wait_for_their_arrival() -> None:
    row = served(SteppedEngine(), request(0, 1), request(1, 1, arrival_s=2.0))
    assert (row["total_s"], row["ttft_p99_ms"]) == (2.5, 500.0)


def test_one_after_the_other() -> None:
    engine = SteppedEngine()
    row = served(engine, request(0, 2), request(1, 3), most=1)
    assert (engine.most, row["total_s"], row["ttft_p99_ms"]) == (1, 2.5, 500.0)


def test_a_short_answer_ends_and_is_counted() -> None:
    row = served(SteppedEngine(short=True), request(0, 3), request(1, 1))
    assert (row["short"], row["finished"], row["out_tokens"]) == (1, 1, 2)


def test_nothing_served_has_no_latencies() -> None:
    row = figures([Record(0.0, 3, 2, error="refused")], 1.0)
    assert (row["errors"], row["ttft_p50_ms"], row["itl_p99_ms"], row["out_tok_s"]) == (1, None, None, 0.0)


def test_the_trace_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"prompt_ids": [n], "max_tokens": 9, "arrival_s": 3.0 - n} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    requests = read_requests({"trace": str(path), "limit": 2})
    assert [(r.index, r.prompt_ids, r.arrival_s) for r in requests] == [(0, [1], 2.0), (1, [0], 3.0)]
    assert [(r.index, r.max_tokens) for r in warm_requests(requests, 1)] == [(-1, 4)]
    assert len(warm_requests(requests, None)) == 4


def test_runners_need_nothing_of_this_package() -> None:
    allowed = set(sys.stdlib_module_names) | {"peer_records"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path.name


def test_every_kind_has_its_runner() -> None:
    for kind in KINDS.values():
        assert not kind.runner or (FOLDER / kind.runner).is_file()
        assert kind.install


class Handler(BaseHTTPRequestHandler):
    """Streams as many tokens as asked; the OpenAI way holds two tokens in an event, llama.cpp's one."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, asked))  # type: ignore[attr-defined]
        if asked["prompt"] == [13]:
            self.send_error(400, "an unlucky prompt")
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/completion":
            for token in range(asked["n_predict"]):
                self.event({"content": "", "tokens": [token]})
            self.event({"content": "", "tokens": [], "stop": True, "tokens_predicted": asked["n_predict"]})
            return
        for _ in range(0, asked["max_tokens"], 2):
            self.event({"choices": [{"text": "ab"}]})
        self.event({"choices": [], "usage": {"completion_tokens": asked["max_tokens"]}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value: object) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run_http(tmp_path: Path, prompts: list[list[int]], most: int | None = None, **options: Any) -> dict[str, Any]:
    trace = [{"prompt_ids": prompt, "max_tokens": 4} for prompt in prompts]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trace))
    job = {
        "model": "a model",
        "trace": str(tmp_path / "t.jsonl"),
        "limit": None,
        "max_concurrency": most,
        "threads": 1,
        "precision": "f32",
        "options": options,
        "log": str(tmp_path / "server.log"),
        "row": str(tmp_path / "row.json"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    runner = [sys.executable, str(FOLDER / "run_http.py"), str(tmp_path / "job.json")]
    done = subprocess.run(runner, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "row.json").read_text())


@pytest.mark.parametrize("api", ["openai", "llamacpp"])
def test_a_server_over_http(tmp_path: Path, server: Any, api: str) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    row = run_http(tmp_path, [[7], [8, 9]], most=1, url=url, api=api, extra={"seed": 5})
    assert (row["requests"], row["finished"], row["errors"], row["in_tokens"], row["out_tokens"]) == (2, 2, 0, 3, 8)
    assert 0 < row["ttft_p50_ms"] <= row["e2e_p50_ms"]
    path, asked = server.asked[-1]
    assert path == ("/v1/completions" if api == "openai" else "/completion")
    assert (asked["prompt"], asked["seed"], asked["stream"], asked["ignore_eos"]) == ([8, 9], 5, True, True)


def test_a_refused_request_is_an_error_of_its_own(tmp_path: Path, server: Any) -> None:
    row = run_http(tmp_path, [[7], [13]], url=f"http://127.0.0.1:{server.server_port}")
    assert (row["finished"], row["errors"], row["short"]) == (1, 1, 1)
    assert row["first_error"].startswith("OSError: status 400")


def test_a_server_is_started_and_stopped(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2].split(':'); from cli.test_peers import *; "
        "s = ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler); s.asked = []; s.serve_forever()"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as free:
        port = free.server_port
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, "{port}", f"{root / 'tests'}:{root}:{root / 'server'}"]
    row = run_http(tmp_path, [[7], [8]], command=command, port=port, wait_s=40)
    assert row["finished"] == 2
    assert row["peak_rss_mb"] > 5
    assert row["startup_s"] > 0
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_memory_of_a_tree_of_processes() -> None:
    mine = peer_records.tree_peak_rss_mb(1 << 22)
    assert mine is None


def test_names_and_rotary_pairs_of_llama_cpp() -> None:
    assert make_gguf.gguf_name("model.layers.11.self_attn.k_proj.bias") == "blk.11.attn_k.bias"
    assert make_gguf.gguf_name("lm_head.weight") == "output.weight"
    rows = np.arange(8).reshape(8, 1)  # two heads of width 4: halves 0 1 | 2 3 and 4 5 | 6 7
    assert make_gguf.pairs_side_by_side(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_tokens_of_llama_cpp_fill_the_vocabulary() -> None:
    tokens, types, merges = make_gguf.tokens_of(Path(TINY_MODEL), 4100)
    assert (len(tokens), len(set(tokens)), tokens[0], tokens[4099]) == (4100, 4100, "<|endoftext|>", "[unused 4099]")
    assert (types[0], types[300], types[4099]) == (3, 1, 5)
    assert len(merges) > 3000
    assert all(len(merge.split(" ")) == 2 for merge in merges)
