"""`jaxpaged bench ...` from the command line: what it prints, and what it refuses before it computes anything."""

from __future__ import annotations

import json

import pytest
from jaxpaged_server.cli import main

SMALL = "--random-weights tiny-mistral --max-model-len 64 --max-num-batched-tokens 128 --no-warmup"


def bench(line: str, *, quiet: bool = True) -> int:
    return main(["bench", *line.split(), *(["--quiet"] if quiet else [])])


def test_latency_of_random_weights(capsys: pytest.CaptureFixture[str]) -> None:
    counts = "--batch-size 2 --input-len 4 --output-len 3 --num-iters 1 --num-iters-warmup 1"
    status = bench(f"latency {counts} {SMALL}", quiet=False)
    out, err = capsys.readouterr()
    assert status == 0
    row = json.loads(out)
    assert (row["short"], row["errors"], row["compiles_while_measured"]) == (0, 0, 0)
    assert row["settings"]["model"] == "tiny-mistral"
    assert row["roofline"]["source"] == "measured"
    assert 0 < row["roofline"]["tpot_share"] < 1
    assert f"{row['tpot_p50_ms']} ms a token" in err
    assert "of the roofline" in err


def test_throughput_of_random_weights(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = "--num-requests 3 --input-len 6 --input-len-sigma 0.5 --input-len-max 9 --output-len 2"
    status = bench(f"throughput {lengths} {SMALL}", quiet=False)
    out, err = capsys.readouterr()
    assert status == 0
    row = json.loads(out)
    assert (row["finished"], row["out_tokens"], row["in_tokens"]) == (3, 6, 17)
    assert 0 < row["roofline"]["share"] < 1
    assert "output tokens/s" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("latency --random-weights llama-9b", "--random-weights is 'llama-9b': it is neither a file nor one of llama-"),
        ("latency --random-weights tiny-llama --model x", "--random-weights is 'tiny-llama': --model x names another"),
        ("latency --batch-size 0", "--batch-size is 0: it must be at least 1"),
        ("latency --num-iters 0", "--num-iters is 0: it must be at least 1"),
        ("throughput --request-rate nan", "--request-rate is nan: it must be 0 or more"),
        ("throughput --input-len-sigma -1", "--input-len-sigma is -1.0: it must be 0 or more"),
        ("throughput --output-len-max 0", "--output-len-max is 0: it must be at least 1"),
        ("throughput --random-weights mixtral-8x7b --dtype float32", "Use a smaller shape, or --dtype bfloat16"),
    ],
)
def test_what_cannot_be_is_one_line(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert len(err.splitlines()) == 1
