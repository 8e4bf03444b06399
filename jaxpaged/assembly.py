"""Buckets and scheduler of an engine from its resolved options. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxpaged.block_listener import BlockListener, BlockListeners
from jaxpaged.buckets import BucketTable
from jaxpaged.config import CHUNK_ALIGN, ResolvedConfig
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.limits import SchedulerConfig
from jaxpaged.prefix import PrefixListener
from jaxpaged.residency import BlockResidency
from jaxpaged.scheduler import Scheduler
from jaxpaged.speculation.draft_model import DraftModel
from jaxpaged.speculation.speculator import Speculator


def make_buckets(config: ResolvedConfig) -> BucketTable:
    """The padded shapes of an engine's steps."""
    return BucketTable.build(
        max_rows=config.max_num_seqs, max_step_tokens=config.max_num_batched_tokens, min_rows=config.min_rows
    )


def make_scheduler(
    config: ResolvedConfig,
    windows: Sequence[int | None],
    buckets: BucketTable,
    *,
    clock: Callable[[], float],
    listener: PrefixListener | None = None,
    residency: BlockResidency | None = None,
    draft: DraftModel | None = None,
) -> Scheduler:
    """The scheduler of an engine. windows: of each KV group, how far back its layers look. draft: the model that
    `config.speculation` names."""
    speculation = config.speculation
    listeners: list[BlockListener] = [residency] if residency is not None else []
    if speculation is None or not speculation.model:
        draft = None
    else:
        assert draft is not None, f"the draft model {speculation.model} is missing"
        draft.restart()
        listeners.append(draft.fills)
    # native products leave padding out, so a row costs the same whether it fills a bucket up or not
    pads = config.attention_backend != "native"
    return Scheduler(
        SchedulerConfig(
            max_rows=config.max_num_seqs,
            max_step_tokens=config.max_num_batched_tokens,
            max_model_len=config.max_model_len,
            chunk_align=CHUNK_ALIGN,
            prefix_caching=config.enable_prefix_caching,
            kv_dtype=config.kv_cache_dtype,
        ),
        KVPoolSpec(block_size=config.block_size, num_blocks=config.num_blocks, windows=tuple(windows)),
        buckets,
        clock=clock,
        listener=listener,
        block_listener=BlockListeners(*listeners) if listeners else None,
        speculator=None if speculation is None else Speculator(speculation, pads=pads, draft=draft),
    )
