"""The child of `jaxpaged doctor`: starts JAX, tells its devices and backends, and tries every op against the reference.

Run as a module; prints JSON lines for `probe.read_lines`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxpaged.device import this_device
from jaxpaged.doctor.probe import LINE_MARK
from jaxpaged.errors import ConfigError
from jaxpaged.llm import LLM
from jaxpaged.memory import resolve_dtype
from jaxpaged.request import RequestOutput, SamplingParams
from jaxpaged.tuning import tuning_path, user_tuning
from pallas_kernels.backend import Backend, choose_backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.layer_pool import LayerPool, decode
from pallas_kernels.linear import linear
from pallas_kernels.native.library import library
from pallas_kernels.pool_spec import default_block_size, pool_spec
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.write_kv import write_kv

TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}
"""Of the largest difference, relative to the reference's largest value in float32."""
_PROMPT = "def fibonacci(n):"
_NUM_TOKENS = 8
_REPEATS = 3
_KV_HEADS, _GROUP, _HEAD_DIM = 2, 4, 64
_Q_LENS = np.array([1, 1, 1, 13])  # three rows of decode and a chunk of a prompt
_KV_LENS = np.array([5, 64, 70, 40])


def tell(part: str, **what: Any) -> None:
    """One line for the parent, at once."""
    line = json.dumps({"part": part, **what})
    assert line.startswith(LINE_MARK)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> int:
    """Tell everything; a Python error is told too, and ends with status 1."""
    try:
        tell("doing", what="starting the devices")
        device = this_device()
        dtype, reason = resolve_dtype("auto", "bfloat16", device)
        devices = [
            {
                "platform": device.platform,
                "kind": device.name if one.platform == "cpu" else one.device_kind,
                "memory_bytes": device.total_bytes
                if one.platform == "cpu"
                else int((one.memory_stats() or {}).get("bytes_limit", 0)),
            }
            for one in jax.devices()
        ]
        tell("devices", platform=device.platform, dtype=dtype, dtype_reason=reason, devices=devices)
        if device.platform == "cpu":
            tell("doing", what="compiling the native backend")
            tell("native", obstacle=library().obstacle, unit=library().unit)
        backend, why = choose_backend(device.platform)
        for op in ("ragged_attention", "write_kv", "grouped_matmul"):
            shared = backend == Backend.NATIVE and op == "grouped_matmul"
            told = (str(Backend.XLA), "the native backend leaves experts to XLA") if shared else (str(backend), why)
            tell("op", op=op, backend=told[0], why=told[1])
        tell("op", op="linear", backend="xla", why=_products(backend))
        tuned = tell_tuning()
        if "--quick" not in argv:
            try_ops(backend, device.platform, ["float32"] if dtype == "float32" else ["float32", dtype])
            if tuned:  # else no engine starts, for a reason that is told
                try_model(backend)
    except Exception as error:  # whatever it is, the parent says it
        tell("failed", error=f"{type(error).__name__}: {error}".rstrip(": "))
        return 1
    return 0


def tell_tuning() -> bool:
    """Tell of the user's tuning table; returns whether an engine could use it."""
    path = tuning_path()
    try:
        table = user_tuning()
    except ConfigError as error:
        what = f"{error.name} is {error.value!r}: {error.limit}"
        tell("tuning", path=str(path), error=what, fix=error.fix)
        return False
    tell("tuning", path=str(path), entries=len(table.entries))
    return True


def _products(backend: Backend) -> str:
    if backend == Backend.NATIVE:
        own = [f"{dtype} by {unit}" for dtype in ("float32", "bfloat16", "int8") if (unit := library().product(dtype))]
        return f"XLA's own dots; those of packed weights are native: {', '.join(own)}"
    return "dense products are XLA's own dots"


def try_ops(backend: Backend, platform: str, dtypes: Sequence[str]) -> None:
    """Each op once in each dtype, on a problem small enough to take seconds."""
    for dtype in dtypes:
        for name, one in (("write_kv", _write_kv), ("ragged_attention", _attention), ("grouped_matmul", _grouped)):
            tell("doing", what=f"{name} in {dtype} by {backend}")
            _check(name, backend, dtype, one(backend, platform, dtype), one(Backend.REFERENCE, platform, "float32"))
        tell("doing", what=f"linear in {dtype}")
        _check("linear", "xla", dtype, _linear(dtype), _linear_in_numpy)


def try_model(backend: Backend) -> None:
    """Greedy tokens of the bundled model, by the backend and by the reference, both in float32."""
    began_s = time.perf_counter()
    tokens = {}
    for each in (backend, Backend.REFERENCE):
        tell("doing", what=f"the bundled model by {each}")
        model = LLM(
            attention_backend=str(each),
            dtype="float32",
            warmup=False,
            max_model_len=64,
            max_num_seqs=8,
            max_num_batched_tokens=128,
            num_gpu_blocks_override=64,
        )
        outputs: list[RequestOutput] = model.generate(
            _PROMPT, SamplingParams(temperature=0.0, max_tokens=_NUM_TOKENS, ignore_eos=True), use_tqdm=False
        )
        tokens[each] = list(outputs[0].outputs[0].token_ids)
    tell(
        "generation",
        backend=str(backend),
        tokens=tokens[backend],
        reference=tokens[Backend.REFERENCE],
        seconds=time.perf_counter() - began_s,
    )


def _check(name: str, backend: str, dtype: str, run: Callable[[], Any], reference: Callable[[], Any]) -> None:
    expected = np.asarray(reference(), np.float32)
    got = np.asarray(jax.block_until_ready(run()), np.float32)
    spent_s = []
    for _ in range(_REPEATS):
        began_s = time.perf_counter()
        jax.block_until_ready(run())
        spent_s.append(time.perf_counter() - began_s)
    difference = float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))
    tell(
        "check",
        op=name,
        backend=str(backend),
        dtype=dtype,
        error=difference,
        tolerance=TOLERANCES[dtype],
        milliseconds=median(spent_s) * 1e3,
    )


def _normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _layout(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Block tables i32[S, W] of rows whose blocks follow one another, block 0 left out, and every token's slot."""
    counts = -(-_KV_LENS // size)
    tables = np.zeros((len(_KV_LENS), counts.max()), np.int32)
    for row, count in enumerate(counts):
        tables[row, :count] = 1 + counts[:row].sum() + np.arange(count)
    slots = [
        table[np.arange(n) // size] * size + np.arange(n) % size for table, n in zip(tables, _KV_LENS, strict=True)
    ]
    return tables, np.concatenate(slots).astype(np.int32)


def _writer(backend: Backend, platform: str, dtype: str) -> tuple[Callable[[Any, Any], LayerPool], Array, Array]:
    """A function that writes k and v of every row into a new pool, and such k and v."""
    size = default_block_size(backend)
    tables, slots = _layout(size)
    spec = pool_spec(
        backend,
        num_blocks=1 + int(tables.max()),
        block_size=size,
        kv_heads=_KV_HEADS,
        head_dim=_HEAD_DIM,
        dtype=dtype,
        platform=platform,
    )
    k, v = (jnp.asarray(_normal(seed, (len(slots), _KV_HEADS, _HEAD_DIM))) for seed in (3, 4))
    return lambda k, v: write_kv(spec.zeros(), k, v, jnp.asarray(slots), backend=backend), k, v


def _write_kv(backend: Backend, platform: str, dtype: str) -> Callable[[], Any]:
    """Writing, then reading every token's slot, so that layouts of different backends compare."""
    write, k, v = _writer(backend, platform, dtype)
    size = default_block_size(backend)
    blocks, offsets = np.divmod(_layout(size)[1], size)

    def write_and_read(k: Array, v: Array) -> Array:
        pool = write(k, v)
        keys = jnp.swapaxes(pool.k, 2, 3) if backend.transposes_keys else pool.k  # [N, K, P, D]
        return jnp.stack([decode(array[blocks, :, offsets], dtype) for array in (keys, pool.v)])

    compiled = jax.jit(write_and_read)
    return lambda: compiled(k, v)


def _attention(backend: Backend, platform: str, dtype: str) -> Callable[[], Any]:
    write, k, v = _writer(backend, platform, dtype)
    pool = jax.jit(write)(k, v)
    num_tokens = int(_Q_LENS.sum())
    q = jnp.asarray(_normal(5, (num_tokens, _KV_HEADS * _GROUP, _HEAD_DIM))).astype(dtype)
    ends = np.concatenate([[0], np.cumsum(_Q_LENS)])
    maps = [jnp.asarray(array.astype(np.int32)) for array in (ends, _KV_LENS, _layout(pool.block_size)[0])]

    def attend(q: Array, pool: LayerPool, maps: list[Array]) -> Array:
        work = attention_work(*maps, num_tokens=num_tokens, block_size=pool.block_size, window=None, backend=backend)
        return ragged_attention(q, pool, work, scale=_HEAD_DIM**-0.5).astype(jnp.float32)

    compiled = jax.jit(attend)
    return lambda: compiled(q, pool, maps)


def _grouped(backend: Backend, platform: str, dtype: str) -> Callable[[], Any]:
    del platform
    x, w = jnp.asarray(_normal(6, (16, 64))), jnp.asarray(_normal(7, (4, 96, 64))).astype(dtype)
    sizes = jnp.asarray(np.array([5, 0, 7, 2], np.int32))
    compiled = jax.jit(grouped_matmul, static_argnames="backend")
    return lambda: compiled(x, w, sizes, backend=backend)


def _linear(dtype: str) -> Callable[[], Any]:
    x, w = jnp.asarray(_normal(1, (8, 64))), jnp.asarray(_normal(2, (96, 64))).astype(dtype)
    compiled = jax.jit(linear)
    return lambda: compiled(x, w)


def _linear_in_numpy() -> Any:
    return _normal(1, (8, 64)) @ _normal(2, (96, 64)).T


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
