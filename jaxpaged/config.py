"""What the user asks of an engine, and what became of it.

`EngineConfig` is what was said, with None and "auto" where nothing was; `ResolvedConfig` has neither. Both are free of
jax, so that `--help` is quick. The arithmetic of memory lives in `memory.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxpaged.combinations import KV_DTYPE_ALIASES, KV_DTYPES, QUANTIZATIONS, check_word
from jaxpaged.errors import ConfigError
from jaxpaged.generation_config import FROM_API, FROM_MODEL, check_generation_config, check_override
from jaxpaged.limits import num_seats, score_rows
from jaxpaged.speculation.config import SpeculationConfig, speculation_config
from jaxpaged.think_tags import check_reasoning_config
from jaxpaged.tiny import TINY_DRAFT, TINY_MODEL

Dtype = Literal["auto", "float32", "bfloat16"]
KVCacheDtype = Literal["auto", "bf16", "int8", "fp8", "bfloat16", "fp8_e4m3"]
CHUNK_ALIGN = 64
"""Chunks of a prompt end at multiples of it: the query tile of the CPU kernels, so chunking never changes a bit."""

Quantization = Literal["int8"]
AttentionBackend = Literal["auto", "reference", "xla", "triton", "native"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Options of an engine; names and meanings are vLLM's where it has them.

    Raises ConfigError naming the option, its value and the limit.
    """

    model: str = str(TINY_MODEL)
    """Folder of the model, its name on the hub (org/name), a converted folder or a GGUF file (default: the bundled)."""
    tokenizer: str | None = None
    """Folder or name of the tokenizer (default: the model's)."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub (default: main)."""
    tokenizer_revision: str | None = None
    """The same of a tokenizer that has a name of its own."""
    hf_token: str | None = field(default=None, repr=False)
    """Token for the hub; others can read a command line, so better in HF_TOKEN (default: that, or the stored one)."""
    download_dir: str | None = None
    """Folder for what is downloaded (default: the cache of huggingface_hub)."""
    dtype: Dtype = "auto"
    """Type of weights; auto: the checkpoint's on a GPU; on CPU bfloat16 only where it multiplies that."""
    quantization: Quantization | None = None
    """int8: matrices of 8 bits with a scale per output, quantised at load; on a CPU activations are int8, too."""
    kv_cache_dtype: KVCacheDtype = "auto"
    """Type of the KV cache; auto: that of the weights; int8 and fp8 have a scale per token and head."""
    max_model_len: int | None = None
    """Longest context in tokens, prompt and answer together (default: the model's own)."""
    max_num_seqs: int | None = None
    """Requests in one step at most (default: 32 on CPU, 256 on a GPU)."""
    max_num_batched_tokens: int | None = None
    """Tokens computed in one step at most (default: 512 on CPU, 2048 on a GPU)."""
    block_size: int | None = None
    """Tokens per KV block (default: what the attention backend likes)."""
    gpu_memory_utilization: float | None = None
    """Share of a GPU's memory for weights, KV cache and steps together (default: 0.9); without effect on a CPU."""
    kv_cache_memory_bytes: int | None = None
    """Bytes of the KV cache (default: from the device's memory)."""
    num_gpu_blocks_override: int | None = None
    """Blocks of the KV cache, on any device; overrules the two options above."""
    enable_prefix_caching: bool = True
    """Reuse the KV blocks of equal prompt beginnings."""
    attention_backend: AttentionBackend = "auto"
    """Which kernels serve; auto: on a GPU triton, on a CPU native (compiled by g++ at first use) or else xla."""
    generation_config: str = "auto"
    """Defaults of what a request leaves unsaid; auto: the model's generation_config.json; a folder: its; vllm: none."""
    override_generation_config: Mapping[str, Any] = field(default_factory=dict)
    """Defaults that come before those of the file, as JSON, as in {"temperature": 0.5}; max_new_tokens is a limit."""
    reasoning_config: Mapping[str, Any] = field(default_factory=dict)
    """What thinking stands between, as JSON: reasoning_start_str and reasoning_end_str (default: by the vocabulary)."""
    max_logprobs: int = 20
    """Logprobs a token that a request may ask for at most; -1: as many as the vocabulary has."""
    seed: int = 0
    """Seeds the draws of requests that give no seed of their own."""
    compile_cache: str | None = None
    """Folder of compiled programs (default: the user's cache folder; "off": none)."""
    warmup: bool = True
    """Compile every step shape before the first request; without it, each is compiled when first met."""
    early_start: bool = False
    """Serve as soon as the largest step shapes are compiled; the others are compiled meanwhile."""
    bundle: str | None = None
    """Folder of programs that `jaxpaged compile` made: the start compiles nothing, and sizes left open are its own."""
    async_scheduling: bool = True
    """Launch a step before the results of the one before it are read; the tokens are the same without."""
    speculative_config: Mapping[str, Any] = field(default_factory=dict)
    """Guess tokens, as JSON: "method" ngram or suffix, or a draft "model"; num_speculative_tokens. Same answers."""

    def __post_init__(self) -> None:
        _at_least("max_model_len", self.max_model_len, 2, "It covers prompt and answer together")
        _at_least("max_num_seqs", self.max_num_seqs, 1)
        _at_least("max_num_batched_tokens", self.max_num_batched_tokens, 1)
        _at_least("kv_cache_memory_bytes", self.kv_cache_memory_bytes, 1)
        _at_least("num_gpu_blocks_override", self.num_gpu_blocks_override, 2, "One block is the null block")
        _at_least("block_size", self.block_size, 1)
        _at_least("max_logprobs", self.max_logprobs, -1, "-1 sets no limit")
        if self.block_size is not None and self.block_size & (self.block_size - 1):
            raise ConfigError(name="block_size", value=self.block_size, limit="it must be a power of two")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError(name="seed", value=self.seed, limit="it must be a whole number")
        if not isinstance(self.memory_share, int | float) or not 0 < self.memory_share <= 1:
            raise ConfigError(
                name="gpu_memory_utilization",
                value=self.gpu_memory_utilization,
                limit="it must be above 0 and at most 1",
            )
        _check_texts(self)
        for name in ("enable_prefix_caching", "warmup", "early_start", "async_scheduling"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(name=name, value=value, limit="it must be True or False")
        check_word("dtype", self.dtype, ("auto", "float32", "bfloat16"))
        if self.quantization is not None:
            check_word("quantization", self.quantization, QUANTIZATIONS)
        kv_cache_dtype = KV_DTYPE_ALIASES.get(str(self.kv_cache_dtype), self.kv_cache_dtype)
        check_word("kv_cache_dtype", kv_cache_dtype, ("auto", *KV_DTYPES))
        object.__setattr__(self, "kv_cache_dtype", kv_cache_dtype)
        object.__setattr__(self, "generation_config", check_generation_config(self.generation_config))
        object.__setattr__(self, "override_generation_config", check_override(self.override_generation_config))
        object.__setattr__(self, "reasoning_config", check_reasoning_config(self.reasoning_config))
        own_draft = str(TINY_DRAFT) if self.model == str(TINY_MODEL) else ""
        speculation = speculation_config(self.speculative_config, own_draft=own_draft)
        object.__setattr__(self, "speculative_config", speculation.asked() if speculation else {})
        check_word("attention_backend", self.attention_backend, ("auto", "reference", "xla", "triton", "native"))

    @property
    def speculation(self) -> SpeculationConfig | None:
        """`speculative_config`, read."""
        return speculation_config(self.speculative_config)

    @property
    def generation_folder(self) -> str | None:
        """Folder of the generation_config.json that counts in place of the model's own, if there is one."""
        return None if self.generation_config in (FROM_MODEL, FROM_API) else self.generation_config

    def quantised_as(self, quantization: str | None) -> EngineConfig:
        """The same with a loaded model's quantization. Raises ConfigError where another is asked for."""
        if self.quantization not in (None, quantization):
            raise ConfigError(
                name="quantization",
                value=self.quantization,
                limit=f"the given model was loaded with quantization={quantization}",
                fix="Load it with the same",
            )
        return replace(self, quantization=quantization)

    @property
    def memory_share(self) -> float:
        """The share of a GPU's memory, asked for or not."""
        return 0.9 if self.gpu_memory_utilization is None else self.gpu_memory_utilization


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConfig:
    """An `EngineConfig` with every choice made, and the reason of each in `reasons`."""

    model: Path
    tokenizer: Path
    dtype: Literal["float32", "bfloat16"]
    quantization: str | None
    kv_cache_dtype: str
    """Dtype of the pool: see `PoolSpec.dtype`."""
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_blocks: int
    enable_prefix_caching: bool
    attention_backend: str
    platform: str
    seed: int
    compile_cache: Path | None
    warmup: bool
    early_start: bool
    bundle: Path | None
    async_scheduling: bool
    reasons: Mapping[str, str] = field(default_factory=dict)
    speculation: SpeculationConfig | None = None

    @property
    def weight_dtype(self) -> str:
        """What the products' weights are held as: "int8" where they are quantised, else `dtype`."""
        return self.quantization or self.dtype

    @property
    def table_width(self) -> int:
        """Blocks that the longest context takes."""
        return -(-self.max_model_len // self.block_size)

    @property
    def num_seats(self) -> int:
        """Places for running requests, whose last drawn tokens the device remembers."""
        return num_seats(self.max_num_seqs)

    @property
    def score_rows(self) -> int:
        """Places of a prompt that are scored at a time."""
        return score_rows(self.platform)

    @property
    def min_rows(self) -> int:
        """Smallest row bucket: with fewer rows XLA's CPU dots change their sums' order or lose their fast path."""
        return min(self.max_num_seqs, 8 if self.platform == "cpu" and self.dtype == "float32" else 4)


def default_compile_cache() -> Path:
    """`$XDG_CACHE_HOME/jaxpaged/programs`, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpaged" / "programs"


def _check_texts(config: EngineConfig) -> None:
    """Words for the hub: printable and not empty, since they become part of an address, a header or a path."""
    for name in ("revision", "tokenizer_revision", "hf_token", "download_dir"):
        value = getattr(config, name)
        if value is None or (isinstance(value, str) and value and value.isprintable() and value.strip() == value):
            continue
        shown = "(not shown)" if name == "hf_token" else value
        raise ConfigError(name=name, value=shown, limit="it must be a text without blanks around it, and not empty")


def _at_least(name: str, value: int | None, low: int, fix: str = "") -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
        raise ConfigError(name=name, value=value, limit=f"it must be a whole number of at least {low}", fix=fix)
