"""I-LIVE and I-PROGRESS over many requests in pools that are far too small for them."""

from __future__ import annotations

import random

import pytest
from host_model import VOCAB, ShadowModel, make_request, run_alone

from jaxpaged.buckets import BucketTable
from jaxpaged.request import Request
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig

REQUESTS = 400
LONGEST = 40


@pytest.mark.parametrize(
    ("windows", "prefix_caching", "max_preemptions"),
    [
        ((None,), False, 1),
        ((None,), True, 4),
        ((None, 6), True, 1),
        ((9,), True, 4),
        ((None, 6), False, 4),
    ],
)
def test_every_request_ends(windows: tuple[int | None, ...], prefix_caching: bool, max_preemptions: int) -> None:
    rng = random.Random(3)
    config = SchedulerConfig(
        max_rows=6,
        max_step_tokens=16,
        max_model_len=LONGEST,
        chunk_align=4,
        prefix_caching=prefix_caching,
        max_preemptions=max_preemptions,
    )
    buckets = BucketTable.build(max_rows=6, max_step_tokens=16, min_rows=2, min_step_tokens=8)
    scheduler = Scheduler(config, KVPoolSpec(block_size=4, num_blocks=1 + 12 * len(windows), windows=windows), buckets)
    model = ShadowModel(scheduler, max_model_len=LONGEST)
    requests: dict[str, Request] = {}
    ended: set[str] = set()
    steps = tokens = 0
    while len(requests) < REQUESTS or scheduler.has_work:
        if len(requests) < REQUESTS and scheduler.num_waiting < 5:
            name, beginning = f"r{len(requests)}", rng.randrange(4)
            prompt = [(i * beginning) % VOCAB for i in range(rng.randint(1, 20))]
            requests[name] = make_request(name, prompt, max_tokens=rng.randint(1, 20))
            scheduler.submit(requests[name])
        plan = scheduler.plan()
        assert plan is not None
        steps += 1
        tokens += sum(row.length for row in plan.rows)
        drawn = model.execute(plan)
        scheduler.launch(plan)
        for event in scheduler.commit(plan, drawn):
            if event.finish is not None:
                assert event.request_id not in ended
                ended.add(event.request_id)
        model.poison()
        assert steps < REQUESTS * LONGEST, "no end in sight"
    scheduler.check()
    assert ended == set(requests)
    for request in requests.values():
        assert request.tokens == [*request.prompt, *run_alone(request)[0]]
        assert request.num_preemptions <= max_preemptions
    assert scheduler.num_preemptions == sum(r.num_preemptions for r in requests.values())
    assert scheduler.num_preemptions > REQUESTS / 20
    assert (scheduler.num_cached_tokens > 0) == prefix_caching
    needed = sum(r.num_tokens - 1 for r in requests.values())
    assert tokens < 1.5 * needed, f"{tokens} tokens computed where {needed} were needed"
