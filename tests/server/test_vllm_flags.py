"""The table of vLLM's flags is kept: every verdict is what the command does, and the page is the table."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from jaxpaged_server.commands import serve
from jaxpaged_server.commands.serve import read_options
from jaxpaged_server.flag_forms import FlagForm, forms_of
from jaxpaged_server.flag_words import read_words
from jaxpaged_server.known_flags import KnownFlags
from jaxpaged_server.settings import ServerConfig
from jaxpaged_server.vllm_flags import PAGE, VllmFlag, page, read_flags, version

from jaxpaged.config import EngineConfig

ROOT = Path(__file__).parents[2]
FLAGS = read_flags()
OURS = forms_of([EngineConfig, ServerConfig])
KNOWN = KnownFlags([EngineConfig, ServerConfig], more=[FlagForm(name="config", takes="value")])
VALUES = {
    "allowed-origins": "https://a.example",
    "attention-backend": "xla",
    "default-chat-template-kwargs": '{"a": 1}',
    "dtype": "float32",
    "gpu-memory-utilization": "0.5",
    "kv-cache-dtype": "int8",
    "kv-cache-metrics-sample": "0.5",
    "structured-outputs-config": '{"backend": "xgrammar", "disable_any_whitespace": true}',
    "kv-events-config": '{"enable_kv_cache_events": true}',
    "log-level": "ERROR",
    "override-generation-config": '{"top_k": 5}',
    "reasoning-parser": "qwen3",
    "reasoning-config": '{"reasoning_start_str": "<a>", "reasoning_end_str": "</a>"}',
    "tool-call-parser": "hermes",
    "otlp-traces-endpoint": "http://localhost:4318",
    "quantization": "int8",
    "root-path": "/llm",
    "speculative-config": '{"method": "ngram", "num_speculative_tokens": 3}',
    "ssl-cert-reqs": "2",
}
"""A value of each supported flag for which 64 will not do."""


def of(verdict: str) -> list[VllmFlag]:
    return [flag for flag in FLAGS if flag.verdict == verdict]


def name_of(flag: VllmFlag) -> str:
    return flag.form.name


def spelling(words: list[str]) -> str:
    return words[0].partition("=")[0].partition(".")[0]


def lines(flag: VllmFlag) -> list[list[str]]:
    """The ways to give a flag, with a value of no meaning where it takes one."""
    found: list[list[str]] = []
    for spelled, _ in flag.form.spellings():
        if flag.form.takes in ("switch", "flag", "optional"):
            found.append([spelled])
        if flag.form.takes in ("switch", "flag"):
            found.append([f"{spelled}=true"])
        else:
            found += [[spelled, "x"], [f"{spelled}=x"]]
        if flag.form.takes == "values":
            found.append([spelled, "x", "y"])
        if flag.form.takes == "json":
            found += [[f"{spelled}.a.b", "x"], [f"{spelled}.a+=x,y"]]
    return found


def test_the_table_is_whole() -> None:
    assert version() == "0.33.0"
    assert len(FLAGS) > 340
    names = [flag.form.name for flag in FLAGS]
    assert len(set(names)) == len(names)
    spelled = list(itertools.chain.from_iterable(dict(flag.form.spellings()) for flag in FLAGS))
    assert len(set(spelled)) == len(spelled)
    for flag in FLAGS:
        assert flag.verdict == "supported" or flag.why, flag.form.name
        assert bool(flag.instead) == (flag.verdict == "refused"), flag.form.name
        assert flag.verdict == "refused" or not flag.same, flag.form.name
        assert not flag.reason.endswith("."), flag.form.name


def test_a_flag_is_ours_exactly_where_it_is_supported() -> None:
    ours = {"config", *OURS}
    assert [flag.form.name for flag in FLAGS if (flag.form.name in ours) != (flag.verdict == "supported")] == []
    takes = {flag.form.name: flag.form.takes for flag in of("supported") if flag.form.name != "config"}
    others_here = {"disable-log-stats": "switch", "allowed-origins": "values", "hf-token": "value"}
    assert {name: OURS[name].takes for name in takes} == takes | others_here


@pytest.mark.parametrize("turn", range(3))
def test_supported_flags_reach_the_options(turn: int) -> None:
    """All on one line, each in another of its spellings every turn."""
    words: list[str] = []
    said: dict[str, bool] = {}
    flags = [flag.form for flag in of("supported") if flag.form.name != "config"]
    for form in flags:
        spellings = list(form.spellings())
        spelled, said[form.name] = spellings[turn % len(spellings)]
        if OURS[form.name].takes == "switch":
            words.append(spelled)
        elif turn == 1:
            words.append(f"{spelled.replace('-', '_').replace('_', '-', 2)}={VALUES.get(form.name, '64')}")
        else:
            words += [spelled, VALUES.get(form.name, "64")]
    asked = read_options(words, {})
    assert (asked.ignored, asked.refused) == ((), ())
    for form in flags:
        field = form.name.replace("-", "_")
        owner = asked.engine if hasattr(asked.engine, field) else asked.server
        value, default = getattr(owner, field), getattr(type(owner)(), field)
        if OURS[form.name].takes == "switch":
            assert value is said[form.name], form.name
        else:
            assert value != default, form.name


@pytest.mark.parametrize("flag", of("ignored"), ids=name_of)
def test_an_ignored_flag_is_taken_with_its_values(flag: VllmFlag) -> None:
    for words in lines(flag):
        given, plain = read_words([*words, "--port", "9", "--", "MODEL"], KNOWN.find, KNOWN.unknown)
        done = KNOWN.sort(given)
        assert done.refused == ()
        assert done.ignored == (f"{spelling(words)} ({flag.why})",), words
        assert ([item.words() for item in done.ours], plain) == ([["--port=9"]], ["MODEL"]), words


@pytest.mark.parametrize("flag", of("refused"), ids=name_of)
def test_a_refused_flag_gives_one_line(flag: VllmFlag) -> None:
    refused = 0
    for words in lines(flag):
        done = KNOWN.sort(read_words(words, KNOWN.find, KNOWN.unknown)[0])
        assert (done.ours, done.ignored) == ((), ())
        for line in done.refused:
            assert line.startswith(spelling(words))
            assert line.endswith(f" is refused: {flag.why}. {flag.instead}. See {PAGE}")
            assert "\n" not in line
        refused += len(done.refused)
    says_no = [on for _, on in flag.form.spellings()].count(False)
    assert 1 <= refused <= len(lines(flag))
    assert refused == len(lines(flag)) or flag.same or says_no


@pytest.mark.parametrize("words", [["--enable-lora"], ["-tp", "2"], ["--lora-modules", "a=b", "c=d"]])
def test_the_command_ends_with_one_line_and_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(words, serve=lambda *_: 0, environ={}) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"error: {' '.join(words)} is refused: ")
    assert told.err.count("\n") == 1


def test_values_that_ask_for_what_is_so_are_accepted() -> None:
    for flag in FLAGS:
        for value in flag.same:
            done = KNOWN.sort(read_words([f"--{flag.form.name}={value}"], KNOWN.find, KNOWN.unknown)[0])
            assert (done.ours, done.ignored, done.refused) == ((), (), ()), flag.form.name


def test_the_page_is_the_table() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(FLAGS, version()), (
        f"write it again: python -m jaxpaged_server.vllm_flags > {PAGE}"
    )


def test_the_page_tells_what_to_do() -> None:
    shown = page(FLAGS, version())
    assert "| `--tensor-parallel-size`, `-tp` | refused | One server computes on one device. Start one" in shown
    assert "Accepted: `1`. |" in shown
    assert "| `--enforce-eager` | ignored | Every step shape is compiled ahead" in shown
    assert "| `--disable-log-stats` | supported |  |" in shown


def test_a_switch_has_the_forms_of_vllms_parser() -> None:
    form = FlagForm(name="enable-lora", takes="switch")
    assert dict(form.spellings()) == {"--enable-lora": True, "--no-enable-lora": False, "--disable-lora": False}
    form = FlagForm(name="disable-x", takes="switch", aliases=("-dx",))
    assert dict(form.spellings()) == {"--disable-x": True, "-dx": True, "--no-disable-x": False, "--enable-x": False}
    assert dict(FlagForm(name="grpc", takes="flag").spellings()) == {"--grpc": True}
