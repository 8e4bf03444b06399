"""The Triton attention kernels, interpreted, against the reference in float32, over the product of what they serve.

The whole product is marked slow (`-m slow`); every other run takes a part of it in which each two values meet.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import pytest
from attention_steps import Case, Step, assert_close, attend, build, compiled_with, run

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool, decode
from pallas_kernels.pool_spec import DTYPES

STEPS = {  # name: tokens, rows; lens. A mixed step may also run the program of a prefill step, which spares one.
    "decode": (4, 4, ((1, 1), (1, 47), (1, 130))),
    "mixed": (128, 2, ((1, 90), (33, 130))),
    "prefill": (128, 2, ((90, 130), (30, 30))),
}
FACTORS: dict[str, tuple[object, ...]] = {
    "head_dim": (64, 80, 96, 112, 128, 256),
    "dtype": DTYPES,
    "group": (1, 4, 7, 8),
    "block_size": (16, 32, 64),
    "step": tuple(STEPS),
    "window": (None, 50),
    "softcap": (None, 5.0),
    "sinks": (False, True),
}
OUTER = ("head_dim", "group", "block_size")
"""What each test of the whole product has one value of: with them change the shapes of all arrays."""


def covering(factors: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """Few combinations in which any two values of different factors meet at least once; greedy, always the same."""
    left = {
        frozenset(pair)
        for a, b in itertools.combinations(factors, 2)
        for pair in itertools.product(*([(name, value) for value in factors[name]] for name in (a, b)))
    }
    found = []
    while left:
        chosen = dict(min(left, key=lambda pair: sorted(map(str, pair))))
        for name in factors:
            if name not in chosen:
                pairs = {v: sum(frozenset([(name, v), item]) in left for item in chosen.items()) for v in factors[name]}
                chosen[name] = max(pairs, key=pairs.__getitem__)
        left -= {frozenset(pair) for pair in itertools.combinations(chosen.items(), 2)}
        found.append({name: chosen[name] for name in factors})
    return found


_PLAIN = {"window": None, "softcap": None}
COVERING = covering(FACTORS)


def case_of(values: Mapping[str, object]) -> Case:
    """The case of a combination; table and pool have one size for all."""
    tokens, rows, lens = STEPS[str(values["step"])]
    kv_heads, size = 2, values["block_size"]
    assert isinstance(size, int)
    rest = {name: values[name] for name in ("head_dim", "dtype", "block_size", "window", "softcap")}
    heads = kv_heads * int(str(values["group"]))
    table = {"width": 192 // size, "blocks": 4 + 384 // size}
    # sinks are data of one program: without them they are -inf, as the kernels have it
    return Case(lens=lens, tokens=tokens, rows=rows, heads=heads, kv_heads=kv_heads, sinks=True, **table, **rest)  # pyright: ignore[reportArgumentType]


def in_float32(pool: LayerPool) -> LayerPool:
    """What the pool's numbers stand for."""
    k, v = decode(jnp.asarray(pool.k), pool.dtype), decode(jnp.asarray(pool.v), pool.dtype)
    if pool.k_scale is not None and pool.v_scale is not None:
        k, v = k * pool.k_scale[..., None], v * pool.v_scale[..., None]
    return LayerPool(k=k, v=v, dtype="float32")


@lru_cache(maxsize=len(DTYPES) * len(STEPS))
def drawn(case: Case) -> tuple[Step, LayerPool]:
    """The step of a case, and its pool in float32: the same ones for every window and softcap."""
    step = build(case)
    return step, in_float32(step.clean)


def check(values: Mapping[str, object], run: Any = run) -> None:
    case = case_of(values)
    step, clean = drawn(replace(case, window=None, softcap=None))
    if not values["sinks"]:
        step = replace(step, sinks=jnp.full((case.heads,), -jnp.inf))
    got = attend(case, step, Backend.TRITON, run=run)
    want = attend(replace(case, dtype="float32"), replace(step, clean=clean), Backend.REFERENCE, clean=True)
    assert_close(got[: step.num_real], want[: step.num_real], 1e-5 if case.dtype == "float32" else 2e-2)
    assert (got[step.num_real :] == 0).all()


def test_every_two_values_meet() -> None:
    assert len(COVERING) <= 40
    for a, b in itertools.combinations(FACTORS, 2):
        met = {(values[a], values[b]) for values in COVERING}
        assert len(met) == len(FACTORS[a]) * len(FACTORS[b]), (a, b)


@pytest.mark.parametrize("values", COVERING, ids=lambda values: "-".join(map(str, values.values())))
def test_agrees_with_the_reference(values: dict[str, object]) -> None:
    check(values)


@pytest.mark.parametrize("step", ["decode", "mixed"])
def test_many_query_heads_of_one_kv_head(step: str) -> None:
    check({"head_dim": 64, "dtype": "bfloat16", "group": 71, "block_size": 16, "step": step, "sinks": False, **_PLAIN})


@pytest.mark.slow
@pytest.mark.parametrize("values", COVERING, ids=lambda values: "-".join(map(str, values.values())))
def test_agrees_with_the_reference_by_the_options_of_xla(values: dict[str, object]) -> None:
    check(values, compiled_with({}))  # as the engine compiles: what is cheap above hides nothing


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("outer", list(itertools.product(*(FACTORS[name] for name in OUTER))), ids=str)
def test_the_whole_product_agrees_with_the_reference(outer: tuple[object, ...]) -> None:
    inner = [name for name in FACTORS if name not in OUTER]
    combinations = list(itertools.product(*(FACTORS[name] for name in inner)))
    for values in combinations:
        check(dict(zip((*OUTER, *inner), (*outer, *values), strict=True)))
    assert len(combinations) == 120
    run.clear_cache()
    drawn.cache_clear()
