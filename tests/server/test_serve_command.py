"""`jaxpaged serve`: what a command line, a file and the environment come to."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from jaxpaged_server.commands import COMMANDS
from jaxpaged_server.commands.serve import Asked, main, read_options
from jaxpaged_server.config_file import MAX_BYTES
from jaxpaged_server.kv_events_config import KVEventsConfig
from jaxpaged_server.settings import ServerConfig

from jaxpaged.commands import guarded
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.tiny import TINY_MODEL

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", "jaxpaged", "jaxpaged_server")]
    levels, handlers = [logger.level for logger in loggers], list(loggers[0].handlers)
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def asked(line: str = "", environ: dict[str, str] | None = None) -> Asked:
    return read_options(line.split(), environ or {})


def served(words: Sequence[str], environ: dict[str, str] | None = None) -> tuple[EngineConfig, ServerConfig]:
    """What the command hands over; it ends with the status that it gets back."""
    got: list[tuple[EngineConfig, ServerConfig]] = []

    def serve(engine: EngineConfig, server: ServerConfig) -> int:
        got.append((engine, server))
        return 7

    assert main(words, serve=serve, environ=environ or {}) == 7
    return got[0]


def configured(folder: Path, text: str, line: str = "") -> Asked:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return read_options([*line.split(), "--config", str(path)], {})


def test_it_is_listed() -> None:
    (serve,) = [command for command in COMMANDS if command.words == ("serve",)]
    assert serve.module == "jaxpaged_server.commands.serve"


def test_nothing_said_is_the_bundled_model_behind_a_closed_door() -> None:
    assert served([]) == (EngineConfig(), ServerConfig())
    assert served([])[0].model == str(TINY_MODEL)


def test_flags_reach_both_halves() -> None:
    words = "MODEL --port 9000 --max-model-len 4k --api-key a b -q int8 --max_num_seqs=3 --shutdown-timeout 2.5"
    assert served(words.split()) == (
        EngineConfig(model="MODEL", max_model_len=4000, quantization="int8", max_num_seqs=3),
        ServerConfig(port=9000, api_key=("a", "b"), shutdown_timeout=2.5),
    )


def test_the_model_may_stand_anywhere_once() -> None:
    assert asked("--port 1 MODEL --host ::1").engine.model == "MODEL"
    assert asked("--model MODEL").engine.model == "MODEL"
    assert asked("--model MODEL MODEL").engine.model == "MODEL"
    with pytest.raises(ConfigError, match="MODEL is 'a': --model names another, 'b'"):
        asked("a --model b")
    with pytest.raises(ConfigError, match="one model to a server"):
        asked("a b")


def test_switches_have_all_their_forms() -> None:
    assert not asked("--no-enable-prefix-caching").engine.enable_prefix_caching
    assert not asked("--disable-prefix-caching").engine.enable_prefix_caching
    assert not asked("--enable-prefix-caching=false").engine.enable_prefix_caching
    assert asked("--no-enable-prefix-caching --enable-prefix-caching").engine.enable_prefix_caching
    assert not asked("--no-async-scheduling").engine.async_scheduling
    assert asked("--enable-log-requests --disable-log-stats").server.disable_log_stats
    assert not asked("--enable-log-requests --disable-log-requests").server.enable_log_requests
    with pytest.raises(ConfigError, match="--enable-log-requests is 'maybe': it must be true or false"):
        asked("--enable-log-requests=maybe")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("4k", 4000), ("4K", 4096), ("25.6k", 25_600), ("1m", 10**6), ("auto", None), ("-1", None), ("64", 64)],
)
def test_lengths_as_people_write_them(written: str, meant: int | None) -> None:
    assert asked(f"--max-model-len {written}").engine.max_model_len == meant
    assert asked(f"--max-model-len={written}").engine.max_model_len == meant


def test_sizes_as_people_write_them() -> None:
    line = "--max-body-bytes 4m --max-num-queued-tokens 100k --kv-cache-memory-bytes 1.5g --max-num-batched-tokens 1K"
    both = asked(line)
    assert (both.server.max_body_bytes, both.server.max_num_queued_tokens) == (4_000_000, 100_000)
    assert (both.engine.kv_cache_memory_bytes, both.engine.max_num_batched_tokens) == (1_500_000_000, 1024)
    with pytest.raises(ConfigError, match=r"max_model_len is '1\.5K'"):
        asked("--max-model-len 1.5K")


def test_json_comes_whole_or_in_parts() -> None:
    whole = ["--kv-events-config", '{"enable_kv_cache_events": true, "hwm": 5, "topic": "t.1"}']
    parts = "--kv-events-config.enable_kv_cache_events true --kv_events_config.hwm=5 --kv-events-config.topic t.1"
    expected = KVEventsConfig(enable_kv_cache_events=True, hwm=5, topic="t.1")
    assert read_options(whole, {}).server.kv_events_config == expected
    assert asked(parts).server.kv_events_config == expected
    assert asked("-cc.mode 3 -cc.pass_config.x true").ignored[0].startswith("-cc (")
    assert (
        asked("--kv-transfer-config.kv_role both").refused[0].startswith('--kv-transfer-config {"kv_role": "both"} is')
    )
    with pytest.raises(ConfigError, match=r"flag is '--port\.x': there is no such flag"):
        asked("--port.x 1")
    with pytest.raises(ConfigError, match="a has a value of its own already"):
        asked("--default-chat-template-kwargs.a 1 --default-chat-template-kwargs.a.b 1")


def test_words_of_lists() -> None:
    assert asked("--served-model-name a b --port 1").server.served_model_name == ("a", "b")
    assert asked('--allowed-origins ["*","https://b.example"]').server.allowed_origins == ("*", "https://b.example")
    assert asked("--api-key=-x").server.api_key == ("-x",)
    assert asked("--api-key a --api-key b").server.api_key == ("b",)  # as in vLLM: the last counts


def test_one_device_may_be_said() -> None:
    assert asked("-tp 1 -dp 1 -pp 1 --nnodes=1 --node-rank 0") == asked()
    (line,) = asked("-tp 2").refused
    assert line.startswith("-tp 2 is refused: one server computes on one device. Start one server per device")
    assert len(asked("-tp 2 --enable-lora --swap-space 4").refused) == 2


def test_ignored_flags_are_told_once_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    engine, server = served(
        ["M", "--swap-space", "4", "--enforce-eager", "-O3", "--cudagraph-capture-sizes", "1", "2", "4", "--port", "8"]
    )
    assert (engine.model, server.port) == ("M", 8)
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert re.search(r"WARNING jaxpaged_server\.commands\.serve: ignored: --swap-space \(preempted requests", told.err)
    for name in ("--enforce-eager (", "-O (", "--cudagraph-capture-sizes (", "see docs/VLLM_FLAGS.md"):
        assert name in told.err
    served(["--port", "8"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--prot 1", "Did you mean --port"),
        ("--max-modle-len 4", "Did you mean --max-model-len"),
        ("--enable-prefix-cachin", "Did you mean --enable-prefix-caching"),
        ("--tensor-paralel-size 2", "Did you mean --tensor-parallel-size"),
        ("--max-num-b", "Did you mean --max-num-batched-tokens"),
        ("--qqqqqqqq", "`jaxpaged serve --help` lists the flags"),
        ("--port", "--port is None: it takes a value"),
        ("--host --port 1", "--host is None: it takes a value"),
        ("--api-key --port 1", "--api-key is None: it takes a value"),
    ],
)
def test_a_flag_that_nobody_has(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        asked(line)


def test_a_key_in_a_mistyped_flag_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        asked("--api-keyy=sesame")
    assert "sesame" not in str(refused.value)


def test_a_value_of_the_wrong_type_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        asked("--port eight")
    assert ended.value.code == 2
    assert "--port" in capsys.readouterr().err


def test_a_value_that_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: main(["--port", "70000"], environ={})) == 2
    assert capsys.readouterr().err == "error: port is 70000: it must be a whole number from 0 to 65,535\n"


def test_a_file_gives_what_the_line_leaves_open(tmp_path: Path) -> None:
    text = """
    model: M
    port: 9000
    max_model_len: 4k
    served-model-name: [a, b]
    enable-prefix-caching: false
    enable-log-requests: true
    api-key: null
    default-chat-template-kwargs: {enable_thinking: false}
    allowed-origins: ["https://a.example"]
    gpu-memory-utilization: 0.5
    swap-space: 4
    tensor-parallel-size: 1
    """
    both = configured(tmp_path, text, "--port 1 --served-model-name c")
    assert both.engine == EngineConfig(
        model="M", max_model_len=4000, enable_prefix_caching=False, gpu_memory_utilization=0.5
    )
    assert both.server == ServerConfig(
        port=1,
        served_model_name=("c",),
        enable_log_requests=True,
        default_chat_template_kwargs={"enable_thinking": False},
        allowed_origins=("https://a.example",),
    )
    assert [told.split(" ")[0] for told in both.ignored] == ["--swap-space"]
    assert configured(tmp_path, text, "OTHER").engine.model == "OTHER"
    assert configured(tmp_path, "").server == ServerConfig()
    assert configured(tmp_path, json.dumps({"port": 5})).server.port == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot: 1", "flag is 'prot': there is no such flag. Did you mean --port"),
        ("port: [1]", "'port: [1]': it must be a value"),
        ("port: {a: 1}", "it must be a value"),
        ("api-key: [{a: 1}]", "it must be a value or a list"),
        ("enable-log-requests: 1", "it must be true or false"),
        ("config: other.yaml", "a file cannot name another"),
        ("port: 1\n--port: 2", "'port': it is there twice"),
        ("- port", "is 'list': it must be a mapping"),
        ("port: [", "it is not YAML"),
        ("a: !!python/object/apply:os.system [x]", "it is not YAML"),
        ("port: 1\nhost: '\x00'", "it is not YAML"),
        ("[" * 600, "it is not YAML"),
        ("#" * (MAX_BYTES + 1), "it may have 262,144 bytes"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        configured(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config is '.*absent.yaml': No such file"):
        asked(f"--config {tmp_path}/absent.yaml")


def test_what_a_file_asks_in_vain_names_the_file(tmp_path: Path) -> None:
    (line,) = configured(tmp_path, "enable-lora: true").refused
    assert line.startswith(f"--enable-lora of {tmp_path}/c.yaml is refused: ")
    assert configured(tmp_path, "enable-lora: false").refused == ()
    with pytest.raises(ConfigError, match="stream_interval is 0") as refused:
        configured(tmp_path, "stream-interval: 0")
    assert refused.value.__notes__ == [f"from {tmp_path}/c.yaml"]


def test_the_environment_comes_last(tmp_path: Path) -> None:
    environ = {
        "VLLM_API_KEY": "theirs",
        "JAXPAGED_PORT": "1",
        "VLLM_CACHE_ROOT": "/c",
        "JAXPAGED_LOGGING_LEVEL": "error",
    }
    both = asked("", environ)
    assert both.server == ServerConfig(api_key=("theirs",), port=1, log_level="ERROR")
    assert both.engine.compile_cache == "/c/jaxpaged/programs"
    (tmp_path / "c.yaml").write_text("port: 2\nlog-level: debug")
    both = asked(f"--config {tmp_path}/c.yaml --api-key mine --log-level info", environ)
    assert both.server == ServerConfig(api_key=("mine",), port=2)
    with pytest.raises(ConfigError, match="log_level is 'LOUD'") as refused:
        asked("", {"VLLM_LOGGING_LEVEL": "loud"})
    assert refused.value.__notes__ == ["from VLLM_LOGGING_LEVEL"]


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")])}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )


def test_help_lists_every_option_and_imports_little() -> None:
    done = run(
        "import sys\nfrom jaxpaged.commands import run\nfrom jaxpaged_server.commands import COMMANDS\n"
        "status = run(COMMANDS[0], ['-tp', '2', '--help'])\n"
        "heavy = {'jax', 'numpy', 'aiohttp', 'yaml', 'tokenizers', 'prometheus_client', 'torch'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    *shown, last = done.stdout.splitlines()
    assert last == "0 []"
    flags = set(re.findall(r"--[a-z][a-z0-9-]+", "\n".join(shown)))
    for item in (*fields(EngineConfig), *fields(ServerConfig)):
        assert f"--{item.name.replace('_', '-')}" in flags, item.name
    assert {"--config", "--help"} <= flags
    panels = [line for line in shown if line.startswith("╭")]
    assert [panel.strip("╭╮─ ") for panel in panels] == [
        "positional arguments",
        "options",
        "server options",
        "engine options",
    ]


def test_bad_options_never_reach_the_server() -> None:
    def serve(*_: Any) -> int:
        raise AssertionError("it was called")

    assert main(["--enable-lora"], serve=serve, environ={}) == 2
    with pytest.raises(ConfigError):
        main(["--port", "-5"], serve=serve, environ={})
