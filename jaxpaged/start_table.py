"""The table that an engine shows when it is ready: what was chosen, and why."""

from __future__ import annotations

from pathlib import Path

import jax

from jaxpaged.buckets import BucketTable
from jaxpaged.device import Device, gib
from jaxpaged.draft_runner import DraftRunner
from jaxpaged.inventory import inventory, kv_bytes_per_block
from jaxpaged.programs import Programs
from jaxpaged.step_memory import estimate
from jaxpaged.weights.source import shown_name


def start_table(
    programs: Programs,
    buckets: BucketTable,
    *,
    device: Device,
    weight_bytes: int,
    dtype_reason: str,
    cache_folder: Path | None,
    sampling: str,
    draft: DraftRunner | None,
    ready: str,
) -> list[tuple[str, str]]:
    """Names and values."""
    config, model = programs.config, programs.model.config
    return [
        ("model", f"{shown_name(config.model)} ({model.architecture})"),
        ("device", f"{device.name} ({device.platform}, {jax.device_count()} device)"),
        *inventory(config, model, buckets, weight_bytes=weight_bytes, dtype_reason=dtype_reason),
        *_draft(draft),
        ("step memory", _step_memory(programs, buckets)),
        ("sampling defaults", sampling),
        ("programs", f"of the bundle {config.bundle}" if config.bundle else f"compile cache {cache_folder or 'off'}"),
        ("ready in", ready),
    ]


def _draft(draft: DraftRunner | None) -> list[tuple[str, str]]:
    if draft is None:
        return []
    config, model = draft.runner.config, draft.runner.model
    weights = gib(sum(leaf.nbytes for leaf in model.leaves))
    keys = gib(config.num_blocks * kv_bytes_per_block(config, model.config))
    name = shown_name(draft.name)
    return [("draft model", f"{name} ({model.config.architecture}): weights {weights}, and {keys} beside the KV pool")]


def _step_memory(programs: Programs, buckets: BucketTable) -> str:
    """What the largest step takes beside weights and pool, for people; nothing is compiled for it."""
    config, (largest,) = programs.config, buckets.base.mixed
    step = programs.step_memory(buckets) if programs.has_step(largest) else None
    step = step or estimate(
        programs.model.config,
        rows=config.max_num_seqs,
        tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
    )
    return f"{gib(step.num_bytes)} ({step.source})"
