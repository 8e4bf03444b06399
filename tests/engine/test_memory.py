"""What is chosen where the user left a choice open."""

from __future__ import annotations

import pytest

from jaxpaged.memory import Device, resolve_dtype


def device(platform: str, bfloat16_unit: str = "") -> Device:
    return Device(platform=platform, name="some", free_bytes=1, total_bytes=1, bfloat16_unit=bfloat16_unit)


@pytest.mark.parametrize(
    ("asked", "checkpoint", "on", "dtype", "why"),
    [
        ("auto", "bfloat16", device("cpu"), "float32", "neither AMX nor AVX512-BF16"),
        ("auto", "bfloat16", device("cpu", "AVX512-BF16"), "bfloat16", "AVX512-BF16"),
        ("auto", "float32", device("cpu", "AMX"), "float32", "the checkpoint's"),
        ("bfloat16", "float32", device("cpu"), "bfloat16", "asked for"),
        ("auto", "float16", device("rocm"), "bfloat16", "native"),
        ("auto", "float32", device("cuda"), "float32", "the checkpoint's"),
    ],
)
def test_dtype(asked: str, checkpoint: str, on: Device, dtype: str, why: str) -> None:
    chosen, reason = resolve_dtype(asked, checkpoint, on)
    assert chosen == dtype
    assert why in reason
