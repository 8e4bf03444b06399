"""`jaxpaged bench speculation`: the texts it serves, and what it prints."""

from __future__ import annotations

import json

import pytest
from jaxpaged_server.cli import main

from jaxpaged.bench.real_text import beginnings

SOURCE = '''"""A module about lists.

%s
"""

import os


def first(items):
    return items[0]
''' % ("It says what a list is. " * 30)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@pytest.mark.parametrize(("kind", "says"), [("code", "def first"), ("docs", "It says what")])
def test_beginnings_are_at_lines_of_their_kind(kind: str, says: str) -> None:
    found = beginnings([SOURCE, "a syntax error ("], kind, count=9, tokens=12, seed=0, encode=letters)
    texts = ["".join(map(chr, piece)) for piece in found]
    assert len(set(texts)) == len(texts) > 1
    assert any(text.startswith(says) for text in texts)
    assert all(len(text) == 12 for text in texts)
    assert kind == "code" or not any(text.startswith(("def", "import", "return")) for text in texts)
    assert found == beginnings([SOURCE, "a syntax error ("], kind, count=9, tokens=12, seed=0, encode=letters)


def test_a_run_on_the_bundled_model(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--max-model-len 64 --max-num-seqs 8 --max-num-batched-tokens 128 --no-warmup --dtype float32"
    counts = "--num-prompts 6 --input-len 24 --output-len 12 --batch-sizes 1 3 --rounds 1"
    asked = json.dumps({"method": "suffix", "num_speculative_tokens": 5})
    status = main(["bench", "speculation", *sizes.split(), *counts.split(), "--speculative-config", asked])
    out, err = capsys.readouterr()
    assert status == 0, err
    row = json.loads(out)
    assert row["speculation"]["num_speculative_tokens"] == 5
    assert row["settings"]["speculation"] is None
    assert [(case["kind"], case["batch"], case["requests"]) for case in row["cases"]] == [
        ("code", 1, 3),
        ("code", 3, 3),
        ("docs", 1, 3),
        ("docs", 3, 3),
    ]
    for case in row["cases"]:
        assert case["speedup_least"] <= case["speedup"] <= case["speedup_most"]
        assert sum(case["accepted_at"]) == case["accepted_tokens"] <= case["draft_tokens"]
        assert len(case["accepted_at"]) == 5
        assert case["tokens_per_row"] <= 1 + case["accepted_tokens"]
    assert "code, 1 at a time: " in err
    assert "guesses came true" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--batch-sizes 0", "--batch-sizes is (0,): each must be at least 1"),
        ("--rounds 0", "--rounds is 0: it must be at least 1"),
        (
            '--speculative-config {"method":"medusa"}',
            "speculative_config.method is 'medusa': it must be ngram, suffix or draft_model",
        ),
    ],
)
def test_what_cannot_be_is_one_line(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "speculation", "--quiet", *line.split()]) == 2
    assert told in capsys.readouterr().err
