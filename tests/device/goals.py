"""What is wanted of a GPU: the floor below which nothing is released, and what a good engine shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Goal:
    """floor and goal bound a share from below, or (at_most) a ratio from above; None: nothing is asked."""

    what: str
    floor: float | None
    goal: float | None
    at_most: bool = False

    def judge(self, value: float | None) -> dict[str, Any]:
        """Fields of a row: whether the value keeps the floor and reaches the goal; None where nothing is known."""
        return {
            "what": self.what,
            "value": value,
            "floor": self.floor,
            "goal": self.goal,
            "bound": "at most" if self.at_most else "at least",
            "kept": self._holds(value, self.floor),
            "reached": self._holds(value, self.goal),
        }

    def _holds(self, value: float | None, bound: float | None) -> bool | None:
        if value is None or bound is None:
            return None
        return value <= bound if self.at_most else value >= bound


GOALS = {
    "K1": Goal(what="decode attention, 64 rows of 4k: share of HBM", floor=0.60, goal=0.75),
    "K2": Goal(what="decode attention, 1 row of 32k: share of HBM", floor=0.45, goal=0.65),
    "K3": Goal(what="8-bit KV over bfloat16 KV, 16 rows of 32k: time", floor=0.70, goal=0.60, at_most=True),
    "K4": Goal(what="prefill attention of 8k: share of dense bf16", floor=0.25, goal=0.38),
    "K5": Goal(what="window 4096: time at 32k over time at 4k", floor=1.15, goal=1.05, at_most=True),
    "K6": Goal(what="dots of Llama-8B at 64 rows or fewer: share of HBM", floor=0.70, goal=0.80),
    "K7": Goal(what="Mixtral's experts at 8 tokens: share of HBM", floor=0.50, goal=0.70),
    "K8": Goal(what="write_kv with RoPE in 32 layers over a step of 64 rows", floor=0.03, goal=0.015, at_most=True),
    "E1": Goal(what="Llama-8B decode, 1 row at 1k: share of the roofline", floor=0.55, goal=0.70),
    "E2": Goal(what="Llama-8B decode, 64 rows at 1k: share of the roofline", floor=0.50, goal=0.65),
    "E3": Goal(what="Llama-8B decode, 256 rows at 1k: share of the roofline", floor=0.50, goal=0.65),
    # the marks are 5,500 and 7,600 output tokens/s of Llama-8B on an H200, whose roofline is 40.9 us a token
    "E4": Goal(what="offline 1000 in, 1000 out: share of the roofline", floor=0.225, goal=0.31),
    "E5": Goal(what="prompts of 4k alone: share of dense bf16", floor=0.35, goal=0.50),
    "E6": Goal(what="server over offline tokens/s, Llama-1B, 256 clients", floor=0.85, goal=0.95),
    "E7": Goal(what="GPU idle in decode steps", floor=0.10, goal=0.03, at_most=True),
    "E8": Goal(what="output tokens/s over transformers' static batch", floor=None, goal=10.0),
    "E9": Goal(what="KV slots held without a token, offline 1000/1000", floor=0.04, goal=0.02, at_most=True),
    "E10": Goal(what="warm start to the first token, seconds", floor=60.0, goal=20.0, at_most=True),
    "E11": Goal(what="compilations after warm-up", floor=0.0, goal=0.0, at_most=True),
}
