"""`jaxpaged bench serve` from end to end, against an endpoint with known delays and known faults."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos_proxy import ChaosProxy, Faults
from jaxpaged_server.commands.bench_serve import main
from jaxpaged_server.load.arrivals import Arrivals
from jaxpaged_server.load.client import Client, open_session
from jaxpaged_server.load.endpoint import Endpoint
from jaxpaged_server.load.outcome import Outcome
from jaxpaged_server.load.run import Job, Run, send_all
from jaxpaged_server.load.sample import Sample
from stub_openai import CUT, ERROR_EVENT, SILENT, StubServer

from jaxpaged.commands import guarded
from jaxpaged.tiny import TINY_MODEL

SMALL = ("--random-input-len", "8", "--random-output-len", "6", "--disable-tqdm")


def bench(server: StubServer | str, *words: str) -> int:
    url = server if isinstance(server, str) else server.url
    return guarded(lambda: main(["--base-url", url, *SMALL, *words]))


def saved(server: StubServer, folder: Path, *words: str, status: int = 0) -> dict[str, Any]:
    """Bench, and the result that it saved."""
    more = ("--save-result", "--result-dir", str(folder), "--result-filename", "result.json")
    assert bench(server, *more, *words) == status
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def test_it_measures_the_delays_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = dict[str, int]()
    add = Outcome.add

    def noted(self: Outcome, num_tokens: int, now_s: float) -> None:
        add(self, num_tokens, now_s)
        read[f"bench-{self.index}"] = self.num_output

    monkeypatch.setattr(Outcome, "add", noted)
    # a token that is read late would be nearer to the next one than they were sent; here that one waits for it
    with StubServer(ttft_s=0.06, itl_s=0.02, has_read=lambda name, told: read.get(name, 0) >= told) as server:
        result = saved(server, tmp_path, "--num-prompts", "5", "--max-concurrency", "5", "--save-detailed")
    assert (result["completed"], result["failed"]) == (5, 0)
    assert (result["total_output_tokens"], result["output_lens"]) == (30, [6] * 5)
    # sleeps are never shorter than asked; how much longer they are is the machine's affair
    assert min(result["ttfts"]) >= 0.06
    assert min(result["latencies"]) >= 0.06 + 5 * 0.02
    assert all(len(gaps) == 5 and min(gaps) >= 0.02 for gaps in result["itls"])
    assert result["mean_tpot_ms"] >= 20.0
    assert 60.0 <= result["median_ttft_ms"] < 60.0 + 2000.0
    assert result["generated_texts"] == ["xxxxxx"] * 5
    assert result["client"].keys() == {"p50_ms", "p99_ms", "max_ms", "cpu_share"}
    told = capsys.readouterr()
    assert "Successful requests:                     5" in told.out
    assert told.out.startswith("============ Serving Benchmark Result ============")


def test_the_saved_names_are_vllms(tmp_path: Path) -> None:
    with StubServer() as server:
        result = saved(server, tmp_path, "--num-prompts", "3", "--metadata", "tp=1", "--save-detailed")
    setting = ("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate")
    more = ("burstiness", "max_concurrency", "duration", "completed", "failed", "total_input_tokens")
    rates = ("total_output_tokens", "request_throughput", "request_goodput", "output_throughput")
    peaks = ("total_token_throughput", "max_output_tokens_per_s", "max_concurrent_requests")
    lists = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")
    spreads = [f"{which}_{m}_ms" for m in ("ttft", "tpot", "itl", "e2el") for which in ("mean", "median", "std", "p99")]
    assert {*setting, *more, *rates, *peaks, *lists, *spreads, "tp"} <= result.keys()
    assert (result["request_rate"], result["backend"], result["model_id"]) == ("inf", "openai", "stub")


def test_requests_hold_what_was_asked(tmp_path: Path) -> None:
    words = ("--temperature", "0", "--top-p", "0.5", "--extra-body", '{"ignore_eos": null, "user": "me"}')
    with StubServer(tokenizer_info={"vocab_size": 50}) as server:
        saved(server, tmp_path, "--num-prompts", "2", "--header", "X-Team=red", "--request-id-prefix", "b-", *words)
    (body, _), (headers, _) = server.bodies, server.headers
    assert len(body.pop("prompt")) == 8
    assert body == {
        **{"model": "stub", "max_tokens": 6, "temperature": 0.0, "top_p": 0.5, "user": "me"},
        **{"stream": True, "stream_options": {"include_usage": True}},
    }
    assert (headers["x-team"], headers["x-request-id"][:2]) == ("red", "b-")
    assert "authorization" not in headers


def test_token_ids_are_sent_where_the_vocabulary_is_known(tmp_path: Path) -> None:
    with StubServer(model="tiny", owned_by="jaxpaged", cached=3) as server:
        result = saved(server, tmp_path, "--num-prompts", "4")
    assert all(isinstance(token, int) for body in server.bodies for token in body["prompt"])
    assert result["tokenizer_id"] == str(TINY_MODEL)
    assert (result["total_input_tokens"], result["total_cached_tokens"]) == (32, 12)


def test_text_is_sent_where_it_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer(tokens_a_word=2) as server:
        saved(server, tmp_path, "--num-prompts", "1")
    assert len(server.bodies[0]["prompt"].split()) == 4  # two tokens each, by /tokenize
    assert "tokenizer is not known" in capsys.readouterr().err


def test_the_chat_endpoint(tmp_path: Path) -> None:
    with StubServer(ttft_s=0.05) as server:
        result = saved(
            server, tmp_path, "--num-prompts", "2", "--backend", "openai-chat", "--tokenizer", str(TINY_MODEL)
        )
    (message,) = server.bodies[0]["messages"]
    assert (message["role"], server.bodies[0]["max_completion_tokens"]) == ("user", 6)
    assert (result["endpoint_type"], result["total_output_tokens"]) == ("openai-chat", 12)
    assert result["median_ttft_ms"] >= 50.0  # not the chunk that names the role, which comes at once


@pytest.mark.parametrize("continuous", [False, True])
def test_events_of_several_tokens(tmp_path: Path, continuous: bool) -> None:
    with StubServer(per_event=3, itl_s=0.01) as server:
        more = ("--continuous-usage-stats",) if continuous else ()
        result = saved(server, tmp_path, "--num-prompts", "2", "--save-detailed", *more)
    assert (result["tokens_per_event"], result["output_lens"]) == (3.0, [6, 6])
    assert [len(gaps) for gaps in result["itls"]] == [1, 1]


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_a_last_token_without_text_is_a_token(tmp_path: Path, backend: str) -> None:
    with StubServer(last_text="", itl_s=0.005) as server:
        result = saved(server, tmp_path, "--num-prompts", "2", "--save-detailed", "--backend", backend)
    assert (result["tokens_per_event"], result["output_lens"]) == (1.0, [6, 6])
    assert [len(gaps) for gaps in result["itls"]] == [5, 5]


def test_custom_and_sharegpt_files(tmp_path: Path) -> None:
    custom = tmp_path / "custom.jsonl"
    custom.write_text('{"prompt": "one two", "output_tokens": 3}\n', encoding="utf-8")
    words = ("--dataset-name", "custom", "--dataset-path", str(custom), "--num-prompts", "2", "--skip-chat-template")
    with StubServer() as server:
        assert saved(server, tmp_path, *words)["total_output_tokens"] == 6
    assert [body["prompt"] for body in server.bodies] == ["one two"] * 2
    assert "ignore_eos" not in server.bodies[0]
    sharegpt = tmp_path / "sharegpt.json"
    turns = [{"from": "human", "value": "def add(a, b): return"}, {"from": "gpt", "value": "a + b + c + d + e"}]
    sharegpt.write_text(json.dumps([{"conversations": turns}]), encoding="utf-8")
    words = ("--dataset-name", "sharegpt", "--dataset-path", str(sharegpt), "--num-prompts", "1", "--ignore-eos")
    with StubServer() as server:
        saved(server, tmp_path, *words, "--tokenizer", str(TINY_MODEL))
    assert server.bodies[0]["ignore_eos"] is True
    assert server.bodies[0]["max_tokens"] > 4


def test_a_server_that_fails_half_of_the_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer(status_of=lambda number: 200 if number % 2 else 500) as server:
        result = saved(server, tmp_path, "--num-prompts", "20", "--save-detailed", status=1)
    assert (result["completed"], result["failed"], result["refused"]) == (10, 10, 0)
    errors = [error for error in result["errors"] if error]
    # the server counts them as they come, which need not be in the order that they were sent in
    assert sorted(errors) == sorted(f"HTTP 500: status 500 for request {number}" for number in range(0, 20, 2))
    first = errors[0].removeprefix("HTTP 500: ")
    assert result["errors_by_kind"] == {"HTTP 500": {"count": 10, "example": first}}
    assert result["total_output_tokens"] == 60
    assert "HTTP 500:                                10" in capsys.readouterr().out


def test_every_kind_of_fault_is_told_apart(tmp_path: Path) -> None:
    faults = [429, CUT, ERROR_EVENT, SILENT, 503]
    with StubServer(status_of=lambda number: faults[number]) as server:
        result = saved(server, tmp_path, "--num-prompts", "5", "--max-concurrency", "1", status=1)
    assert {kind: told["count"] for kind, told in result["errors_by_kind"].items()} == dict.fromkeys(
        ("HTTP 429", "cut off", "error event", "no token", "HTTP 503"), 1
    )
    assert (result["refused"], result["failed"], result["refused_with_retry_after"]) == (1, 5, 1)
    assert result["mean_retry_after_s"] == 3.0
    assert result["errors_by_kind"]["error event"]["example"] == "the engine broke"


def test_max_concurrency_holds_requests_back_and_open_loop_does_not(tmp_path: Path) -> None:
    with StubServer(ttft_s=0.02) as server:
        result = saved(server, tmp_path, "--num-prompts", "12", "--max-concurrency", "3")
        assert server.most_busy == 3
        assert result["max_concurrent_requests"] <= 3
    with StubServer(ttft_s=0.5) as server:
        saved(server, tmp_path, "--num-prompts", "12")
        assert server.most_busy == 12


async def sent(url: str, arrivals: Arrivals, count: int, **more: Any) -> Run:
    endpoint = Endpoint(kind="completions", url=f"{url}/v1/completions", model="stub")
    offsets = arrivals.offsets(count, Random(0))
    body = endpoint.body(Sample(prompt=(1, 2), max_tokens=2))
    jobs = [Job(index=index, due_s=due_s, body=body) for index, due_s in enumerate(offsets)]
    async with open_session(endpoint, timeout_s=more.pop("timeout_s", 30.0)) as session:
        client = Client(session, endpoint, began_s=time.perf_counter())
        return await send_all(client, jobs, **more)


def test_a_slow_server_does_not_slow_the_arrivals() -> None:
    with StubServer(ttft_s=0.4) as server:
        run = asyncio.run(sent(server.url, Arrivals(rate=100.0), 30))
    assert all(outcome.is_done for outcome in run.outcomes)
    assert all(outcome.began_s >= outcome.due_s for outcome in run.outcomes)
    assert min(outcome.latency_s for outcome in run.outcomes) >= 0.4
    # waiting for answers would have taken 30 * 0.4 s
    assert run.outcomes[-1].began_s < 8.0


def test_an_answer_that_takes_too_long_is_a_timeout() -> None:
    with StubServer(ttft_s=5.0) as server:
        run = asyncio.run(sent(server.url, Arrivals(), 2, timeout_s=0.1))
    assert [outcome.kind for outcome in run.outcomes] == ["timeout", "timeout"]
    assert all(0.1 <= outcome.latency_s < 3.0 for outcome in run.outcomes)


@pytest.mark.parametrize(
    ("faults", "kind"),
    [(Faults(cut_at=300), "cut off"), (Faults(reset_at=300), "cut off"), (Faults(piece=7), "")],
)
def test_networks_that_cut_or_crumble(faults: Faults, kind: str) -> None:
    async def through(server: StubServer) -> Run:
        async with ChaosProxy("127.0.0.1", server.port, lambda _: (Faults(), faults)) as proxy:
            return await sent(proxy.url, Arrivals(), 3)

    with StubServer() as server:
        run = asyncio.run(through(server))
    assert [outcome.kind for outcome in run.outcomes] == [kind] * 3
    assert all(outcome.is_done is (kind == "") for outcome in run.outcomes)


def test_warm_ups_are_not_counted_and_must_be_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer() as server:
        assert saved(server, tmp_path, "--num-prompts", "3", "--num-warmups", "2")["completed"] == 3
        assert len(server.bodies) == 5
    with StubServer(status_of=lambda number: 400) as server:
        assert bench(server, "--num-prompts", "3", "--num-warmups", "1") == 2
        assert len(server.bodies) == 1
    assert "a warm-up request was not answered (HTTP 400: status 400 for request 0)" in capsys.readouterr().err


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_server_that_is_not_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer() as server:
        gone = server.url
    assert bench(gone.replace("http://", "http://me:secret@")) == 2
    line = one_line(capsys)
    assert line.startswith(f"error: --base-url is '{gone}': nothing answers there (")
    assert "Start a server with `jaxpaged serve`" in line
    assert "secret" not in line


def test_a_server_that_is_not_ready_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer(not_ready=1) as server:
        assert bench(server, "--num-prompts", "1") == 2
    assert "the server is not ready (status 503)" in one_line(capsys)
    with StubServer(not_ready=1) as server:
        assert saved(server, tmp_path, "--num-prompts", "1", "--ready-check-timeout-sec", "30")["completed"] == 1


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with StubServer(key="sk-secret") as server:
        assert bench(server, "--num-prompts", "1") == 2
        assert "OPENAI_API_KEY is '(not shown)': the server at" in one_line(capsys)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        page = tmp_path / "report.html"
        saved(server, tmp_path, "--num-prompts", "1", "--html", str(page), "--header", "X-Other=hidden")
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    written = page.read_text(encoding="utf-8") + (tmp_path / "result.json").read_text(encoding="utf-8")
    told = capsys.readouterr()
    for secret in ("sk-secret", "hidden"):
        assert secret not in written + told.out + told.err
    assert "X-Other" in written


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer() as server:
        assert bench(server, "--num-prompts", "1", "--model", "stub") == 0
        capsys.readouterr()
        assert bench(server, "--num-prompts", "1", "--model", "other") == 2
        assert "--model is 'other': the server serves stub" in one_line(capsys)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dataset-name", "hf"], "--dataset-name is 'hf': it must be one of random, sharegpt, custom"),
        (["--dataset-name", "custom"], "--dataset-name custom needs file"),
        (["--dataset-path", "x"], "--dataset-name random takes no file"),
        (["--num-prompts", "0"], "--num-prompts is 0"),
        (["--request-rate", "0"], "--request-rate is 0.0"),
        (["--request-rate", "-1"], "--request-rate is -1.0"),
        (["--max-concurrency", "0"], "--max-concurrency is 0"),
        (["--backend", "tgi"], "--backend is 'tgi'"),
        (["--backend", "openai-chat", "--endpoint", "/v1/completions"], "needs one that ends in chat/completions"),
        (["--base-url", "localhost:8000"], "it must begin with http:// or https://"),
        (["--ramp-up-strategy", "linear"], "it needs --ramp-up-start-rps and --ramp-up-end-rps"),
        (["--ramp-up-end-rps", "3"], "--ramp-up-strategy is None"),
        (["--extra-body", "{"], "--extra-body is '{': it is no JSON"),
        (["--extra-body", "[]"], "it must be a JSON object"),
        (["--goodput", "ttft"], "METRIC:MILLISECONDS"),
        (["--header", "Bearer"], "--header is '(not shown)': word 1 of it must be KEY=VALUE"),
        (["--tokenizer", "/nowhere"], "there is no such file"),
    ],
)
def test_flags_that_cannot_be_are_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer() as server:
        assert guarded(lambda: main(["--base-url", server.url, *words])) == 2
    assert told in one_line(capsys)
    assert server.bodies == []


def test_vllms_words_that_mean_nothing_here_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer() as server:
        saved(server, tmp_path, "--trust-remote-code", "--num_prompts", "1", "--tokenizer-mode", "auto")
    assert len(server.bodies) == 1
    assert "note: --trust-remote-code is ignored" in capsys.readouterr().err


def test_the_address_may_end_in_v1_and_results_may_be_appended(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "all.jsonl"
    where = ("--append-result", "--result-dir", str(file.parent), "--result-filename", file.name)
    with StubServer() as server:
        for label in ("a", "b"):
            assert bench(f"{server.url}/v1/", "--num-prompts", "1", "--label", label, *where) == 0
    assert [json.loads(line)["label"] for line in file.read_text(encoding="utf-8").splitlines()] == ["a", "b"]


def test_a_file_is_named_as_vllm_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with StubServer(model="org/name") as server:
        assert bench(server, "--num-prompts", "1", "--save-result", "--request-rate", "50") == 0
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("openai-50.0qps-name-2")
    assert json.loads(file.read_text(encoding="utf-8"))["completed"] == 1


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    code = "import sys; from jaxpaged_server.commands.bench_serve import main; sys.exit(main(sys.argv[1:]))"
    words = ("--save-result", "--result-dir", str(tmp_path), "--result-filename", "r.json", "--num-prompts", "1000")
    with StubServer(itl_s=0.01) as server:
        command = [sys.executable, "-c", code, "--base-url", server.url, *SMALL, *words, "--request-rate", "50"]
        child = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.PIPE, text=True
        )
        until_s = time.monotonic() + 60
        while len(server.bodies) < 10 and time.monotonic() < until_s:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    result = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert result["interrupted"] is True
    assert 1 <= result["completed"] < 1000
    assert result["failed"] == 0
    assert "note: Interrupted: of 1000 requests" in err
    assert "Traceback" not in err


def test_help_is_there_at_once_and_names_the_words() -> None:
    code = (
        "import sys; from jaxpaged_server.commands.bench_serve import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: print(end.code, sorted({'jax', 'numpy', 'aiohttp', 'tqdm'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []"
    for word in ("dataset-name", "request-rate", "burstiness", "max-concurrency", "metric-percentiles", "goodput"):
        assert f"--{word}" in done.stdout
