"""Which values and combinations of engine options cannot be, and what would work instead. [host half: no jax]

Two tables, so that a refusal is one entry: words that other engines take and this one does not, and options that do
not go together on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jaxpaged.errors import ConfigError

KV_DTYPES: Mapping[str, str] = MappingProxyType({"bf16": "bfloat16", "int8": "int8", "fp8": "float8_e4m3fn"})
"""The words of --kv-cache-dtype and the dtype of the pool that each stands for."""
KV_DTYPE_ALIASES: Mapping[str, str] = MappingProxyType({"bfloat16": "bf16", "fp8_e4m3": "fp8"})
"""vLLM's spellings of these words."""
QUANTIZATIONS = ("int8",)
"""The words of --quantization."""

_NO_FLOAT16 = (
    "float16 is not offered: its range ends at 65,504, which some models' activations exceed",
    "Use bfloat16 or float32",
)
_NO_E5M2 = (
    "this type is not offered: keys and values have a scale per token and head, so its range buys nothing",
    "Use fp8 (e4m3fn: the same bytes, twice the precision) or int8",
)
_NO_CHECKPOINT = (
    "checkpoints that are quantised already are not read; weights are quantised as they are loaded",
    "Give the unquantised checkpoint, and int8",
)
_NO_4_BIT = ("no KV cache of 4 bits is offered", "Use int8 or fp8")
REFUSED_WORDS: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType(
    {
        ("dtype", "float16"): _NO_FLOAT16,
        ("dtype", "half"): _NO_FLOAT16,
        ("dtype", "float"): ("it must be written out", "Use float32"),
        ("dtype", "int8"): (
            "it is the type of weights that are not quantised",
            "For weights: quantization=int8; for the KV cache: kv_cache_dtype=int8",
        ),
        ("quantization", "fp8"): ("no weights of that type are offered", "Use int8: the same bytes"),
        ("quantization", "awq"): _NO_CHECKPOINT,
        ("quantization", "gptq"): _NO_CHECKPOINT,
        ("quantization", "compressed-tensors"): _NO_CHECKPOINT,
        ("quantization", "bitsandbytes"): ("no weights of its types are offered", "Use int8"),
        ("kv_cache_dtype", "fp8_e5m2"): _NO_E5M2,
        ("kv_cache_dtype", "fp8_inc"): ("that is fp8 of another vendor's accelerator", "Use fp8 or int8"),
        ("kv_cache_dtype", "float16"): _NO_FLOAT16,
        ("kv_cache_dtype", "float32"): (
            "it follows dtype, or is smaller",
            'Use "auto" with dtype="float32"',
        ),
        ("kv_cache_dtype", "nvfp4"): _NO_4_BIT,
        ("kv_cache_dtype", "int4"): _NO_4_BIT,
    }
)
"""(option, word) -> why it is refused and what would work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the options came to on a device, before any memory is counted.

    platform: "cpu", "cuda" or "rocm". compute_capability: (major, minor) of a CUDA device, else None. backend: of
    attention. kv_cache_dtype: of the pool, see `PoolSpec.dtype`. quantization: of the weights. packed: they are held
    in the order that the native products read them, where there is such a form.
    """

    platform: str
    compute_capability: tuple[int, int] | None
    backend: str
    kv_cache_dtype: str
    block_size: int
    head_dim: int
    quantization: str | None = None
    packed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A combination that cannot be. name: the field of `Choice` to blame."""

    name: str
    broken: Callable[[Choice], bool]
    limit: str
    fix: str


TRITON_BLOCK_SIZES = (16, 32, 64)
TRITON_HEAD_DIM = 256

RULES = (
    Rule(
        name="block_size",
        broken=lambda c: c.backend == "triton" and c.block_size not in TRITON_BLOCK_SIZES,
        limit="the Triton kernels are made and tested for blocks of 16, 32 and 64 tokens",
        fix="Use one of these, or attention_backend=xla",
    ),
    Rule(
        name="head_dim",
        broken=lambda c: c.backend == "triton" and c.head_dim > TRITON_HEAD_DIM,
        limit=f"the Triton kernels hold a head of at most {TRITON_HEAD_DIM} in registers",
        fix="Use attention_backend=xla",
    ),
    Rule(
        name="backend",
        broken=lambda c: c.backend == "triton" and c.compute_capability is not None and c.compute_capability < (8, 0),
        limit="XLA's Triton serves CUDA devices of compute capability 8.0 and above",
        fix="Use attention_backend=xla with dtype=float32",
    ),
    Rule(
        name="kv_cache_dtype",
        broken=lambda c: (
            c.backend == "triton"
            and c.kv_cache_dtype == "float8_e4m3fn"
            and c.compute_capability is not None
            and c.compute_capability < (8, 9)
        ),
        limit="Triton converts float8_e4m3fn on CUDA devices of compute capability 8.9 and above",
        fix="Use int8, which every device converts",
    ),
)


def check_combination(choice: Choice) -> None:
    """Raise ConfigError naming the first option that cannot be beside the others, and what would work."""
    for rule in RULES:
        if rule.broken(choice):
            raise ConfigError(name=rule.name, value=getattr(choice, rule.name), limit=rule.limit, fix=rule.fix)


def check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    """Raise ConfigError unless an option's value is one of its words; a word known from elsewhere gets its reason."""
    if isinstance(value, str) and value in words:
        return
    limit, fix = REFUSED_WORDS.get((name, str(value)), ("", ""))
    listed = f"it must be one of {', '.join(words)}"
    raise ConfigError(name=name, value=value, limit=f"{limit}; {listed}" if limit else listed, fix=fix)
