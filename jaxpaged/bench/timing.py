"""How long a piece of device work takes: many calls in one program, each waiting for the one before."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Body = Callable[[Any, Any], Any]


def round_seconds(body: Body, state: Any, operands: Any, *, rounds: int, repeats: int) -> list[float]:
    """Seconds of one round in each of `repeats` programs of `rounds` rounds, after one that is not counted.

    body(state, operands) -> the next state: what a round computes must go into it, or the compiler drops it. state is
    donated, and must not be used afterwards.
    """

    def program(state: Any, operands: Any) -> Any:
        return lax.fori_loop(0, rounds, lambda _, state: body(state, operands), state)

    compiled = jax.jit(program, donate_argnums=0).lower(state, operands).compile()
    state = jax.block_until_ready(compiled(state, operands))
    spent: list[float] = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        state = jax.block_until_ready(compiled(state, operands))
        spent.append((time.perf_counter() - began_s) / rounds)
    return spent


def after(value: Array, done: Array) -> Array:
    """`value`, but not before all of `done` is computed."""
    done, value = lax.optimization_barrier((done, value))
    return value + (jnp.ravel(done)[0] * 0).astype(value.dtype)
