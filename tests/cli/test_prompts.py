"""Lines of a prompt file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxpaged.commands.prompts import PromptLine, parse_line, read_lines
from jaxpaged.errors import ConfigError
from jaxpaged.request import SamplingParams

DEFAULTS = SamplingParams(temperature=0.5, max_tokens=9)


def line(content: str | bytes, index: int = 0, seed: int = 0) -> PromptLine:
    data = content.encode() if isinstance(content, str) else content
    return parse_line(index, data, DEFAULTS, seed=seed)


def test_the_four_forms() -> None:
    assert line('"hello"').text == "hello"
    assert line('{"prompt": "hello", "id": "a"}').text == "hello"
    assert line('{"prompt": "hello", "id": "a"}').id == "a"
    assert line('{"prompt_token_ids": [1, 2]}').token_ids == [1, 2]
    assert line('{"messages": [{"role": "user", "content": "hi"}]}').messages == [{"role": "user", "content": "hi"}]


def test_sampling_of_a_line_goes_over_the_defaults() -> None:
    params = line('{"prompt": "x", "sampling": {"max_tokens": 3, "seed": 5, "logit_bias": {"7": 1}}}').params
    assert params == SamplingParams(temperature=0.5, max_tokens=3, seed=5, logit_bias={7: 1.0})


def test_a_line_without_a_seed_gets_one_of_its_own() -> None:
    def seed_of(index: int, seed: int) -> int | None:
        params = line('"x"', index, seed).params
        return params.seed if params else None

    assert seed_of(3, 0) == seed_of(3, 0)
    assert len({seed_of(3, 0), seed_of(4, 0), seed_of(3, 1)}) == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "it is not JSON"),
        (b'"\xff"', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("7", "it must be a JSON string or object"),
        ("{}", "exactly one of prompt, messages, prompt_token_ids"),
        ('{"prompt": "x", "prompt_token_ids": [1]}', "exactly one of"),
        ('{"prompt": "x", "max_tokens": 5}', 'key "max_tokens" is 5'),
        ('{"prompt": 5}', "it must be a string"),
        ('{"prompt": "\\ud800"}', "character 0 is not Unicode"),
        ('{"messages": [{"role": "user", "content": "\\udfff"}]}', "is not Unicode"),
        ('{"messages": []}', "it must be a list of"),
        ('{"prompt_token_ids": [1, true]}', "whole numbers"),
        ('{"prompt": "x", "id": [1]}', "id is [1]"),
        ('{"prompt": "x", "sampling": {"temprature": 1}}', "sampling.temprature is 1"),
        ('{"prompt": "x", "sampling": {"top_p": 7}}', "top_p is 7"),
        ('{"prompt": "x", "sampling": {"stop": 5}}', "stop is 5: it must be a string"),
        ('{"prompt": "x", "sampling": {"logit_bias": {"a": 1}}}', "sampling is"),
        ('{"prompt": "x", "sampling": 5}', "sampling is 5"),
    ],
)
def test_a_bad_line_carries_its_error(content: str | bytes, told: str) -> None:
    parsed = line(content)
    assert parsed.error is not None
    assert told in str(parsed.error)
    assert parsed.text is None
    assert parsed.params is None


def test_a_bad_line_keeps_its_id() -> None:
    assert line('{"prompt": 5, "id": "row-9"}').id == "row-9"


def test_the_digest_is_of_the_line_alone() -> None:
    assert line('"x"', 0).digest == line('"x"', 5).digest
    assert line('"x"').digest != line('"y"').digest


def test_indices_count_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf"a"\r\n\n  \n"b"')
    assert list(read_lines(path)) == [(0, b'"a"'), (3, b'"b"')]
    assert [json.loads(content) for _, content in read_lines(path)] == ["a", "b"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--input is .*nothing.jsonl.*No such file"):
        list(read_lines(tmp_path / "nothing.jsonl"))
    with pytest.raises(ConfigError, match="it is not a regular file"):
        list(read_lines(tmp_path))
