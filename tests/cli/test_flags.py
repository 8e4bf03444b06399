"""The command line is made of the dataclasses, whole."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

import pytest
import tyro

from jaxpaged.commands.counts import count_of
from jaxpaged.commands.flags import EngineFlags, FlagStyle, SamplingFlags, field_docs, parse
from jaxpaged.commands.generate import GenerateOptions
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, ParameterError
from jaxpaged.request import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    width: int = 3
    secret: int = 4

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ConfigError(name="width", value=self.width, limit="it must be above 0")


@dataclass(frozen=True, kw_only=True)
class House:
    door: tyro.conf.OmitArgPrefixes[Door] = field(default_factory=Door)


def options(line: str) -> GenerateOptions:
    return parse(GenerateOptions, line.split(), prog="test")


@pytest.mark.parametrize("kind", [EngineConfig, SamplingParams])
def test_every_field_has_a_docstring(kind: type) -> None:
    assert set(field_docs(kind)) == {item.name for item in fields(kind)}


NOT_FLAGS = {
    *(
        "n",
        "best_of",
        "logprobs",
        "logprob_token_ids",
        "prompt_logprobs",
        "detokenize",
        "spaces_between_special_tokens",
    ),
    *("skip_reading_prefix_cache", "allowed_token_ids", "repetition_detection"),
}
"""Sampling parameters that make nothing of what the command prints, or that one line does not hold."""


def test_every_field_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        options("--help")
    assert done.value.code == 0
    shown = set(re.findall(r"--(?:no-)?([a-z][\w-]*)", capsys.readouterr().out))
    for item in (*fields(EngineConfig), *fields(SamplingParams)):
        is_flag = item.name.replace("_", "-") in shown
        assert is_flag != (item.name in NOT_FLAGS), item.name


def test_nothing_said_is_the_default() -> None:
    assert options("x").engine == EngineConfig(warmup=False)  # of many shapes, a few prompts meet two
    assert options("x").sampling == SamplingParams(temperature=0.7, top_p=0.95, max_tokens=128)


def test_flags_reach_the_engine() -> None:
    line = "--max-model-len 64 --max_num_seqs 3 --no-enable-prefix-caching --dtype float32 --seed 7 --model ./m p q"
    assert options(line).engine == EngineConfig(
        max_model_len=64,
        max_num_seqs=3,
        enable_prefix_caching=False,
        dtype="float32",
        seed=7,
        model="./m",
        warmup=False,
    )
    assert options(line).prompts == ("p", "q")


def test_flags_reach_the_sampling() -> None:
    line = "--temperature 0.5 --top-k 4 --stop A --stop B --stop-token-ids 3 --logit-bias 5 -1.5 --logit-bias 6 2 p"
    line = f"--bad-words C --bad-words D --thinking-token-budget 9 --truncate-prompt-tokens -1 {line}"
    line = f"--truncation-side right {line}"
    assert options(line).sampling == SamplingParams(
        temperature=0.5,
        top_p=0.95,
        top_k=4,
        stop=("A", "B"),
        stop_token_ids=(3,),
        logit_bias={5: -1.5, 6: 2.0},
        max_tokens=128,
        bad_words=("C", "D"),
        thinking_token_budget=9,
        truncate_prompt_tokens=-1,
        truncation_side="right",
    )
    tags = '{"reasoning_start_str":"<a>","reasoning_end_str":"</a>"}'
    assert options(f"--reasoning-config {tags} p").engine.reasoning_config["reasoning_end_str"] == "</a>"
    assert options(line).prompts == ("p",)


def test_values_that_cannot_be_raise_our_own_errors() -> None:
    with pytest.raises(ParameterError, match="min_p is 2"):
        options("--min-p 2 x")
    with pytest.raises(ConfigError, match=r"gpu_memory_utilization is 1\.5"):
        options("--gpu-memory-utilization 1.5 x")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("0", 0), ("-7", -7), ("4096", 4096), ("4k", 4000), ("4K", 4096), ("1.5m", 1_500_000), ("2G", 2 * 1024**3)],
)
def test_counts_as_people_write_them(written: str, meant: int) -> None:
    assert count_of(written, name="x") == meant


def test_fractions_keep_every_digit() -> None:
    assert count_of("25.6k", name="x") == 25_600  # in floats 25599.999...
    assert count_of("0.123456789g", name="x") == 123_456_789
    assert count_of("1.2345k", name="x") == 1234


@pytest.mark.parametrize("written", ["", "k", "1.5K", "1e3", "0x10", "4kb", "-4k", "1_000", "١k", "9" * 16])
def test_what_is_no_count_is_named(written: str) -> None:
    with pytest.raises(ConfigError, match="max_model_len is "):
        count_of(written, name="max_model_len")


def test_lengths_take_suffixes_and_the_models_own() -> None:
    assert options("--max-model-len 4k --max-num-batched-tokens 1K x").engine == EngineConfig(
        max_model_len=4000, max_num_batched_tokens=1024, warmup=False
    )
    assert options("--max-model-len auto x") == options("--max-model-len -1 x") == options("x")
    with pytest.raises(ConfigError, match="max_model_len is 'long'"):
        options("--max-model-len long x")


def test_another_dataclass_joins_by_its_style() -> None:
    styles = {Door: FlagStyle(hidden=frozenset({"secret"}))}
    assert parse(House, ["--width", "5"], prog="test", styles=styles).door == Door(width=5)
    with pytest.raises(ConfigError, match="width is -1"):
        parse(House, ["--width", "-1"], prog="test", styles=styles)
    with pytest.raises(SystemExit):
        parse(House, ["--secret", "1"], prog="test", styles=styles)


def test_the_default_of_a_command_stays_with_the_command() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Other:
        engine: EngineFlags = field(default_factory=lambda: EngineConfig(seed=5))
        sampling: SamplingFlags = field(default_factory=lambda: SamplingParams(max_tokens=None))

    parsed = parse(Other, ["--top-k", "2"], prog="test")
    assert parsed.engine == EngineConfig(seed=5)
    assert parsed.sampling == SamplingParams(max_tokens=None, top_k=2)
