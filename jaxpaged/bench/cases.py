"""What `bench kernels` times: every op at the shapes of real models, and at small ones for any machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxpaged.errors import ConfigError

OPS = ("ragged_attention", "write_kv", "grouped_matmul", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase:
    """A step's attention in one layer: `rows` rows of `q_len` tokens each, seen from the end of `context` tokens.

    Then `more_rows` rows of `more_q_len` tokens at the end of `more_context`, which make the step a mixed one. A dtype
    of None is the machine's: bfloat16 on a GPU, float32 on a CPU.
    """

    name: str
    rows: int
    q_len: int = 1
    context: int
    more_rows: int = 0
    more_q_len: int = 0
    more_context: int = 0
    window: int | None = None
    dtype: str | None = None
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128

    op = "ragged_attention"

    @property
    def q_lens(self) -> list[int]:
        return [self.q_len] * self.rows + [self.more_q_len] * self.more_rows

    @property
    def kv_lens(self) -> list[int]:
        return [self.context] * self.rows + [self.more_context] * self.more_rows

    def seen_keys(self) -> int:
        """Keys that at least one query of their row sees, over all rows: what must be read."""
        reach = [kv if self.window is None else min(kv, self.window + q - 1) for q, kv in self._pairs()]
        return sum(reach)

    def scores(self) -> int:
        """Pairs of a query and a key it sees, of one head."""
        total = 0
        for q, kv in self._pairs():
            positions = range(kv - q, kv)
            total += sum(p + 1 if self.window is None else min(p + 1, self.window) for p in positions)
        return total

    def _pairs(self) -> list[tuple[int, int]]:
        return list(zip(self.q_lens, self.kv_lens, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCase:
    """A step's writing of keys and values in one layer, keys rotated on the way."""

    name: str
    tokens: int
    dtype: str | None = None
    kv_heads: int = 8
    head_dim: int = 128

    op = "write_kv"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedCase:
    """x [rows, width] through one matrix [height, width] of the experts that rows go to."""

    name: str
    rows: int
    width: int
    height: int
    experts: int = 8
    dtype: str | None = None

    op = "grouped_matmul"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearCase:
    """x [rows, width] through a dense matrix [height, width]."""

    name: str
    rows: int
    width: int
    height: int
    dtype: str | None = None

    op = "linear"


Case = AttentionCase | WriteCase | GroupedCase | LinearCase


def _attention() -> list[Case]:
    found: list[Case] = [
        AttentionCase(name=f"decode-b{rows}-ctx{context}", rows=rows, context=context)
        for rows in (1, 64, 256)
        for context in (1024, 4096, 32768)
    ]
    found += [
        AttentionCase(name=f"decode-b16-ctx{context}-window4096", rows=16, context=context, window=4096)
        for context in (4096, 32768)
    ]
    found += [
        AttentionCase(name=f"decode-b{rows}-ctx{context}-{dtype}", rows=rows, context=context, dtype=dtype)
        for rows, context in ((64, 4096), (16, 32768))
        for dtype in ("bfloat16", "int8", "float8_e4m3fn")
        if (rows, dtype) != (64, "bfloat16")
    ]
    found.append(
        AttentionCase(
            name="mixed-b32-chunks4x504", rows=32, context=4096, more_rows=4, more_q_len=504, more_context=2048
        )
    )
    found += [AttentionCase(name=f"prefill-{n}", rows=1, q_len=n, context=n) for n in (2048, 8192)]
    return found


_LLAMA_8B = (
    ("qkv", 4096, 6144),
    ("o", 4096, 4096),
    ("gate_up", 4096, 28672),
    ("down", 14336, 4096),
    ("head", 4096, 128256),
)

FULL: tuple[Case, ...] = (
    *_attention(),
    *(WriteCase(name=f"tokens{tokens}", tokens=tokens) for tokens in (64, 256, 512, 2048)),
    *(WriteCase(name=f"tokens256-{dtype}", tokens=256, dtype=dtype) for dtype in ("int8", "float8_e4m3fn")),
    *(
        GroupedCase(name=f"mixtral-{part}-tokens{tokens}", rows=2 * tokens, width=width, height=height)
        for tokens in (1, 8, 64, 256, 2048)
        for part, width, height in (("gate_up", 4096, 28672), ("down", 14336, 4096))
    ),
    *(
        LinearCase(name=f"llama-8b-{part}-rows{rows}", rows=rows, width=width, height=height)
        for rows in (1, 16, 64)
        for part, width, height in _LLAMA_8B
    ),
)
"""Layers of Llama-3.1-8B, Mistral-7B and Mixtral-8x7B."""

_SMALL: dict[str, Any] = {"heads": 8, "kv_heads": 2, "head_dim": 64}

QUICK: tuple[Case, ...] = (
    AttentionCase(name="decode-b1-ctx1024", rows=1, context=1024, **_SMALL),
    AttentionCase(name="decode-b8-ctx256", rows=8, context=256, **_SMALL),
    AttentionCase(name="decode-b8-ctx1024-window256", rows=8, context=1024, window=256, **_SMALL),
    AttentionCase(name="decode-b8-ctx256-int8", rows=8, context=256, dtype="int8", **_SMALL),
    AttentionCase(name="decode-b8-ctx256-float8_e4m3fn", rows=8, context=256, dtype="float8_e4m3fn", **_SMALL),
    AttentionCase(
        name="mixed-b4-chunks2x62", rows=4, context=256, more_rows=2, more_q_len=62, more_context=128, **_SMALL
    ),
    AttentionCase(name="prefill-256", rows=1, q_len=256, context=256, **_SMALL),
    WriteCase(name="tokens64", tokens=64, kv_heads=2, head_dim=64),
    WriteCase(name="tokens64-int8", tokens=64, dtype="int8", kv_heads=2, head_dim=64),
    GroupedCase(name="tokens8", rows=16, width=256, height=512),
    GroupedCase(name="tokens256", rows=512, width=256, height=512),
    LinearCase(name="rows8", rows=8, width=512, height=1024),
)
"""The same ops, small enough for a CPU."""


def chosen_cases(*, quick: bool, only: str | None) -> tuple[Case, ...]:
    """The cases whose op/name holds `only`. Raises ConfigError where there is none, naming what there is."""
    cases = QUICK if quick else FULL
    found = tuple(case for case in cases if only is None or only in label(case))
    if not found:
        raise ConfigError(
            name="--only",
            value=only,
            limit=f"no case is called so; ops are {', '.join(OPS)}",
            fix=f"Name a part of a case, such as {label(cases[0])}",
        )
    return found


def label(case: Case) -> str:
    """op/name: what a case is called on the screen and by --only."""
    return f"{case.op}/{case.name}"
