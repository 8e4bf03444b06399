"""Whoever listens to the prefix cache can rebuild it: which keys each group holds, and of which tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from host_model import ShadowModel, make_request

from jaxpaged.buckets import BucketTable
from jaxpaged.prefix import block_key, root_key
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig

BLOCK = 4
LONGEST = 30


class Mirror:
    """What the events say the prefix cache holds, and the events themselves."""

    def __init__(self, groups: int) -> None:
        self.held: list[dict[bytes, tuple[bytes | None, tuple[int, ...], str]]] = [{} for _ in range(groups)]
        self.told: list[str] = []

    def stored(self, group: int, key: bytes, parent: bytes | None, tokens: Sequence[int], salt: str) -> None:
        assert key not in self.held[group], "stored twice"
        self.held[group][key] = (parent, tuple(tokens), salt)
        self.told.append("stored")

    def removed(self, group: int, key: bytes) -> None:
        del self.held[group][key]
        self.told.append("removed")

    def cleared(self) -> None:
        for held in self.held:
            held.clear()
        self.told.append("cleared")


def make(mirror: Mirror | None, groups: int = 1, blocks: int = 7) -> tuple[Scheduler, ShadowModel]:
    config = SchedulerConfig(max_rows=2, max_step_tokens=16, max_model_len=LONGEST, chunk_align=4, kv_dtype="bf16")
    windows = (None, 5)[:groups]
    pool = KVPoolSpec(block_size=BLOCK, num_blocks=1 + (blocks - 1) * groups, windows=windows)
    buckets = BucketTable.build(max_rows=2, max_step_tokens=16, min_rows=2, min_step_tokens=8)
    scheduler = Scheduler(config, pool, buckets, listener=mirror)
    return scheduler, ShadowModel(scheduler, max_model_len=LONGEST)


def run(scheduler: Scheduler, model: ShadowModel) -> None:
    while scheduler.has_work:
        plan = scheduler.plan()
        assert plan is not None
        tokens = model.execute(plan)
        scheduler.launch(plan)
        scheduler.commit(plan, tokens)


def test_full_blocks_are_told_with_their_history() -> None:
    mirror = Mirror(1)
    scheduler, model = make(mirror)
    scheduler.submit(make_request("a", [1, 2, 3, 4, 5, 6, 0, 1, 2], max_tokens=1, salt="tenant"))
    run(scheduler, model)
    first = block_key(root_key("tenant", "bf16"), [1, 2, 3, 4])
    second = block_key(first, [5, 6, 0, 1])
    assert mirror.held == [{first: (None, (1, 2, 3, 4), "tenant"), second: (first, (5, 6, 0, 1), "tenant")}]
    assert mirror.told == ["stored", "stored"]


def test_a_block_that_is_known_already_is_not_told_again() -> None:
    mirror = Mirror(1)
    scheduler, model = make(mirror)
    for name in ("a", "b"):  # both compute the block, in one step: the second one finds the key taken
        scheduler.submit(make_request(name, [1, 2, 3, 4, 5], max_tokens=1))
    run(scheduler, model)
    assert mirror.told == ["stored"]


def test_eviction_is_told_before_what_takes_the_place() -> None:
    mirror = Mirror(1)
    scheduler, model = make(mirror, blocks=3)
    scheduler.submit(make_request("a", [1, 2, 3, 4, 5], max_tokens=1))
    run(scheduler, model)
    scheduler.submit(make_request("b", [6, 6, 6, 6, 6], max_tokens=1))
    run(scheduler, model)
    assert mirror.told == ["stored", "removed", "stored"]
    assert [tokens for _, tokens, _ in mirror.held[0].values()] == [(6, 6, 6, 6)]


def test_a_reset_is_told_once() -> None:
    mirror = Mirror(1)
    scheduler, model = make(mirror)
    scheduler.submit(make_request("a", range(6), max_tokens=6))
    run(scheduler, model)
    assert mirror.told == ["stored", "stored"]
    scheduler.reset_prefix_cache()
    assert mirror.told == ["stored", "stored", "cleared"]
    scheduler.submit(make_request("b", range(6), max_tokens=1))
    run(scheduler, model)
    assert mirror.told[3:] == ["stored"]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_events_add_up_to_the_index(groups: int, seed: int) -> None:
    draw = random.Random(seed)
    mirror = Mirror(groups)
    scheduler, model = make(mirror, groups)
    beginnings = [[draw.randrange(7) for _ in range(16)] for _ in range(3)]
    for i in range(60):
        prompt = [*draw.choice(beginnings)[: draw.randint(1, 16)], draw.randrange(7)]
        scheduler.submit(
            make_request(f"r{i}", prompt, max_tokens=draw.randint(1, 6), salt=draw.choice(["", "", "tenant"]))
        )
        if draw.random() < 0.5:
            run(scheduler, model)
        if draw.random() < 0.05:
            scheduler.reset_prefix_cache()
        for held, index in zip(mirror.held, scheduler._cache.indexes, strict=True):
            assert set(held) == set(index._blocks)
            for key, (parent, tokens, salt) in held.items():
                assert key == block_key(root_key(salt, "bf16") if parent is None else parent, tokens)
    assert {"stored", "removed"} <= set(mirror.told)
