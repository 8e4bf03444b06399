"""How many blocks there is room for beside the largest step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from jaxpaged.assembly import make_buckets
from jaxpaged.config import EngineConfig
from jaxpaged.device import Device
from jaxpaged.memory import DraftPool, resolve
from jaxpaged.programs import Programs
from jaxpaged.step_memory import StepMemory


def fitted(
    asked: EngineConfig, programs: Programs, device: Device, *, weight_bytes: int, draft: DraftPool | None = None
) -> Programs:
    """The programs for as many blocks as fit beside the largest step, by its own analysis; no pool exists yet.

    What a step takes does not depend on the number of blocks, so it is compiled for the least that serves the longest
    context: once more than without, and only where the blocks follow from it.
    """
    model, dtype = programs.model, programs.config.dtype
    resolved = partial(resolve, asked, model.config, device, dtype=dtype, weight_bytes=weight_bytes, draft=draft)
    most = resolved(step=StepMemory(num_bytes=0, source="nothing"))  # the longest context that there may be
    trial = programs.with_pool(replace(most, num_blocks=most.table_width + 1))
    step = trial.step_memory(make_buckets(most))
    return programs if step is None else trial.with_pool(resolved(step=step))
