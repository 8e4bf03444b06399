"""The user's tuning table, from its file to the kernels that a step launches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxpaged.bench.random_engine import random_engine
from jaxpaged.buckets import Bucket
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from pallas_kernels.grouped_matmul import triton as grouped_matmul
from pallas_kernels.launch import launch
from pallas_kernels.ragged_attention import triton_decode
from pallas_kernels.write_kv import triton as write_kv

ROWS = 8
OPTIONS = EngineConfig(
    attention_backend="triton", warmup=False, max_model_len=64, max_num_seqs=ROWS, max_num_batched_tokens=128
)
TABLE = {
    "ragged_attention": [{"use": {"q_tile": 16, "kv_tile": 16, "num_warps": 2, "num_stages": 3}}],
    "write_kv": [{"when": {"max_tokens": 8}, "use": {"token_tile": 2, "num_warps": 8}}],
    "grouped_matmul": [
        {"use": {"row_tile": 32, "out_tile": 16, "in_tile": 32, "band": 1, "num_warps": 2, "num_stages": 2}}
    ],
}


def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """Grid, warps and stages of the kernels in a decode step of a small Mixtral, by name; the last of each."""
    found: dict[str, tuple[tuple[int, ...], int, int]] = {}

    def record(*arguments: Any, name: str, grid: tuple[int, ...], **settings: Any) -> Any:
        found[name] = (grid, settings["num_warps"], settings["num_stages"])
        return launch(*arguments, name=name, grid=grid, **settings)

    runner = random_engine(OPTIONS, "tiny-mixtral").runner
    with monkeypatch.context() as patch:
        for module in (write_kv, grouped_matmul, triton_decode):
            patch.setattr(module, "launch", record)
        patch.setattr(jax.stages.Lowered, "compile", lambda self: self)  # what is launched is known by then
        runner.compile(Bucket(tokens=ROWS, rows=ROWS))
    return found


def test_a_table_changes_what_a_step_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jaxpaged" / "tuning.json"
    monkeypatch.delenv("JAXPAGED_TUNING", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shipped = launched(monkeypatch)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(TABLE))
    tuned = launched(monkeypatch)
    kv_heads, outs = 2, 64  # of the shape; the experts' last product gives the embedding
    # 8 tokens: 16 and then 2 of them a program
    assert (shipped["write_kv"], tuned["write_kv"]) == (((1, kv_heads), 4, 1), ((4, kv_heads), 8, 1))
    # 16 rows of 2 tiles of columns at most; tiles of rows: one more than experts, with 16 and with 32 rows each
    assert (shipped["grouped_matmul"][1:], tuned["grouped_matmul"][1:]) == ((4, 1), (2, 2))
    assert (shipped["grouped_matmul"][0][1], tuned["grouped_matmul"][0][1]) == (1, outs // 16)
    (before,) = {settings[1:] for name, settings in shipped.items() if name in ("decode", "decode_split")}
    (after,) = {settings[1:] for name, settings in tuned.items() if name in ("decode", "decode_split")}
    assert (before, after) == ((4, 1), (2, 3))
    monkeypatch.setenv("JAXPAGED_TUNING", str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match=r"none\.json.*No such file"):
        launched(monkeypatch)
