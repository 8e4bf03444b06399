"""What reading calls and reasoning costs: `PYTHONPATH=.:server:tests python -m dialect_cost`. Processor time."""

from __future__ import annotations

import os
import time

from dialect_cases import CASES, parser

_PIECE = 4  # characters, about a token of English
_PLAIN = "The answer to this is: it depends on what a city is, and where. "


def seconds(name: str, pieces: list[str]) -> float:
    """Of reading an answer in these pieces."""
    best = float("inf")
    for _ in range(5):
        made = parser(name, "qwen3")
        began = time.process_time()
        for piece in pieces:
            made.push(piece)
        made.finish()
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    for name in ("hermes", "qwen3_coder", "pythonic"):
        calls = next(case.text for case in CASES if case.calls == name) + "\n"
        for what, text in (("text", _PLAIN * 2000), ("calls", calls * 500)):
            pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
            each, whole = seconds(name, pieces) / len(pieces), seconds(name, [text]) / len(text)
            print(f"{name}, {what}: {1e6 * each:.1f} us a piece, {1e9 * whole:.0f} ns a character told at once")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
