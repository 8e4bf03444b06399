"""Lowering for a GPU that is not here, by every JAX that this project takes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import jax
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

BEFORE_0_11 = tuple(int(part) for part in jax.__version__.split(".")[:2]) < (0, 11)


def absent_device(kind: str) -> AbstractContextManager[object]:
    """Lower Pallas kernels for a device of this kind ("NVIDIA H200", "gfx942") in this block.

    From jax 0.11 the lowering asks the device for its architecture: an abstract one answers. Before, it takes sm_90.
    """
    if BEFORE_0_11:
        return nullcontext()
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))
