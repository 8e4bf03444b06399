"""lm-eval's tasks over HTTP, against the same scores and answers of the engine itself; run by `run.py`.

The tasks are in this folder: `python_choices` compares the prompt's log probabilities of choices (echo), and
`python_lines` what is generated up to a line's end. The tokenizer is the server's, by /tokenizer_info and /tokenize.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

FOLDER = Path(__file__).parent
EXPECTED = json.loads(Path(os.environ["CHECK_EXPECTED"]).read_text())
TIMEOUT_S = 150
equal = TestCase().assertEqual


def main() -> None:
    """Both kinds of model that lm-eval has for such servers."""
    results, samples = evaluate("local-completions", "completions", ["python_choices", "python_lines"])
    check_choices(results["python_choices"], samples["python_choices"])
    check_lines(results["python_lines"], samples["python_lines"])
    # answers of this model begin with a line's end, so they are stopped by nothing that comes
    chat = ("--apply_chat_template", "--gen_kwargs", "until=###")
    check_chat(*evaluate("local-chat-completions", "chat/completions", ["python_lines"], *chat))


def evaluate(kind: str, path: str, tasks: list[str], *flags: str) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Run lm-eval's command; its results and its samples, by task."""
    arguments = {
        "model": os.environ["CHECK_MODEL"],
        "base_url": f"{os.environ['OPENAI_BASE_URL']}/{path}",
        "auth_token": os.environ["OPENAI_API_KEY"],  # of the tokenizer's routes; others read the environment
        "num_concurrent": 4,
        "max_length": 2048,
    }
    out = Path.cwd() / kind
    command = [sys.executable, "-m", "lm_eval", "run", "--model", kind]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    command += ["--tasks", ",".join(tasks), "--include_path", str(FOLDER), "--log_samples", "--output_path", str(out)]
    # the tasks name their data by files of this folder
    subprocess.run([*command, *flags], cwd=FOLDER, check=True, timeout=TIMEOUT_S)
    (results,) = out.rglob("results_*.json")
    return json.loads(results.read_text())["results"], {task: read_samples(out, task) for task in tasks}


def read_samples(out: Path, task: str) -> list[Any]:
    (file,) = out.rglob(f"samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["doc_id"])


def check_choices(results: dict[str, Any], samples: list[Any]) -> None:
    """The accuracy, each choice's log probability, and whether it is the likeliest: all equal."""
    wanted = EXPECTED["choices"]
    equal(len(samples), len(wanted))
    for sample, doc in zip(samples, wanted, strict=True):
        got = [(float(logprob), greedy == "True") for logprob, greedy in sample["filtered_resps"]]
        assert got == [(choice["logprob"], choice["greedy"]) for choice in doc["choices"]], sample["doc"]
        equal(sample["acc"], float(doc["right"]))
    accuracy = sum(doc["right"] for doc in wanted) / len(wanted)
    equal(results["acc,none"], accuracy)
    # both ends would hide a wrong score: chance is a quarter, and the model has learned Python but no geography
    assert 0.25 < accuracy < 1
    print(f"accuracy {accuracy:.4f} of {len(wanted)}, as the engine's own")


def check_lines(results: dict[str, Any], samples: list[Any]) -> None:
    """What is generated, and how often it is the right line."""
    got = [sample["filtered_resps"][0] for sample in samples]
    equal(got, EXPECTED["lines"])
    right = [line == sample["doc"]["rest"] for line, sample in zip(got, samples, strict=True)]
    equal(results["exact_match,none"], sum(right) / len(right))
    assert 0 < sum(right) < len(right)


def check_chat(results: dict[str, Any], samples: dict[str, list[Any]]) -> None:
    """The same task as conversations."""
    equal([sample["filtered_resps"][0] for sample in samples["python_lines"]], EXPECTED["chat_lines"])
    assert "exact_match,none" in results["python_lines"]


if __name__ == "__main__":
    main()
