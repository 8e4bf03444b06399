"""Rows of options for the sampler: what a test says, and neutral values for the rest."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxpaged.sampler import SamplingRows


def neutral(num_rows: int, **changes: object) -> SamplingRows:
    """Greedy rows that ask for nothing, but for `changes` (scalars or arrays)."""
    defaults = {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "presence": 0.0,
        "frequency": 0.0,
        "repetition": 1.0,
    }
    defaults |= {"seeds": np.arange(num_rows), "positions": 7, "prompt_lens": 0, "num_logprobs": -1}
    assert changes.keys() <= defaults.keys()
    integers = {"top_k", "seeds", "positions", "prompt_lens", "num_logprobs"}
    return SamplingRows(
        **{
            name: jnp.asarray(
                np.broadcast_to(np.asarray(value), (num_rows,)), jnp.int32 if name in integers else jnp.float32
            )
            for name, value in (defaults | changes).items()
        }
    )
