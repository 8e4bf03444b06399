"""What forms cost: output tokens a second of 32 requests with a schema, and of the same requests without.

`python tests/structured_cost.py TEKKEN SHAPE [PAIRS] [TOKENS]`: TEKKEN is a folder with a tekken.json, SHAPE one of
`jaxpaged bench`'s. The model has random weights and as many logits as there are tokens, 131,072; pairs are interleaved.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

from jaxpaged.bench.shapes import shape_config
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.request import SamplingParams
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.weights.random import random_model

VOCAB = 131_072
ROWS = 32
PROMPT = 32
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1000,  # longer than any answer here: none ends by itself
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "born": {"type": "string", "format": "date"},
            "kind": {"enum": ["person", "place", "thing"]},
            "scores": {"type": "array", "items": {"type": "number"}, "maxItems": 4},
        },
        "required": ["name", "born", "kind", "scores"],
        "additionalProperties": False,
    },
}


def run(engine: LLMEngine, count: int, form: StructuredOutputsParams | None) -> float:
    """Output tokens a second."""
    for i in range(ROWS):
        prompt = tuple(1000 + (i * 37 + k * 101) % 100_000 for k in range(PROMPT))
        params = SamplingParams(max_tokens=count, ignore_eos=True, seed=i, temperature=0.8, structured_outputs=form)
        engine.enqueue(engine.check(prompt, params), params)
    tokens, began_s = 0, time.perf_counter()
    while engine.has_unfinished:
        tokens += sum(event.token is not None for event in engine.step_tokens())
    return tokens / (time.perf_counter() - began_s)


def main() -> None:
    folder, shape = sys.argv[1:3]
    pairs, count = (int(word) for word in [*sys.argv[3:], "5", "48"][:2])
    config = {**shape_config(shape), "vocab_size": VOCAB}
    options = EngineConfig(
        model="random",
        tokenizer=folder,
        max_model_len=512,
        max_num_seqs=ROWS,
        max_num_batched_tokens=256,
        enable_prefix_caching=False,
        compile_cache="off",
    )
    engine = LLMEngine(options, model=random_model(config, context=512))
    form = StructuredOutputsParams(json=SCHEMA)
    run(engine, 8, form)
    ratios = []
    for _ in range(pairs):
        before = engine.metrics.mask_s
        plain, held = run(engine, count, None), run(engine, count, form)
        masks_ms, ratio = 1e3 * (engine.metrics.mask_s - before) / count, held / plain
        ratios.append(ratio)
        load = os.getloadavg()[0]
        print(f"{plain:.1f} and {held:.1f} tokens/s, {ratio:.3f}; masks {masks_ms:.2f} ms a step; load {load:.1f}")
    compiles = engine.metrics.compiles_after_ready
    print(f"median {statistics.median(ratios):.3f} of {pairs} pairs; compiles after ready {compiles}")


if __name__ == "__main__":
    main()
