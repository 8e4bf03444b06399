"""I-RELEASE at the door: whatever clients and the server do, nothing stays behind and nobody is forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from admission_door import A, B, C, assert_empty, opened
from fake_time import now, run
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxpaged_server.access.keys import Key, KeyLimits
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.admission.ticket import Ticket, TicketState
from jaxpaged_server.refusals import DeadlineError, NotReadyError, RefusalError

from jaxpaged.errors import ParameterError

MOST_PLACES = 6
KEYS = (A, replace(B, weight=3.0), Key(name="d", limits=KeyLimits(max_concurrency=3, tokens_per_minute=400)), C)


@dataclass(frozen=True)
class Client:
    key: int
    comes_s: float
    prompts: tuple[int, ...]
    first_s: float  # to the first token, once inside
    rest_s: float
    deadline_s: float | None  # after it came
    leaves_s: float | None  # after it came, whatever happens then
    rows: int = 1


SECONDS = st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 5.0])
CLIENTS = st.lists(
    st.builds(
        Client,
        key=st.sampled_from([0, 0, 0, 1, 2, 3]),
        comes_s=SECONDS,
        prompts=st.lists(st.sampled_from([0, 1, 10, 30, 70]), min_size=1, max_size=2).map(tuple),
        first_s=SECONDS,
        rest_s=SECONDS,
        deadline_s=st.none() | SECONDS,
        leaves_s=st.none() | st.none() | SECONDS,
        rows=st.sampled_from([1, 1, 2]),
    ),
    min_size=1,
    max_size=30,
)
SERVER = st.lists(
    st.tuples(SECONDS, st.sampled_from(["pause", "resume", "drain", "abort_all", "behind", "ready", "keys", "resize"])),
    max_size=6,
)
CONFIGS = st.builds(
    AdmissionConfig,
    max_num_seqs=st.integers(2, MOST_PLACES - 2),
    max_num_batched_tokens=st.just(64),
    max_model_len=st.just(100),
    max_num_queued_reqs=st.sampled_from([None, 0, 3]),
    max_num_queued_tokens=st.sampled_from([None, 60]),
)


async def wait(ticket: Ticket, client: Client) -> None:
    with ticket:
        try:
            await ticket.turn()
        except DeadlineError:
            assert ticket.deadline_s == now()
            raise
        assert ticket.state is TicketState.INSIDE
        assert ticket.admission.num_inside <= MOST_PLACES + 1  # the last one in may have two rows
        assert ticket.deadline_s is None or now() < ticket.deadline_s
        await asyncio.sleep(client.first_s)
        ticket.charge(1)
        await asyncio.sleep(client.rest_s)
        ticket.charge(3)


async def visit(admission: Admission, client: Client, key: Key) -> str:
    """One HTTP request from its beginning to its end; how it ended."""
    await asyncio.sleep(client.comes_s)
    deadline_s = None if client.deadline_s is None else now() + client.deadline_s
    try:
        tickets = admission.line_up(key, prompt_tokens=client.prompts, rows=client.rows, deadline_s=deadline_s)
    except (RefusalError, ParameterError):
        return "refused"
    finally:
        admission.check()
    tasks = [asyncio.create_task(wait(ticket, client)) for ticket in tickets]
    if client.leaves_s is not None:
        await asyncio.wait(tasks, timeout=client.leaves_s)
        for task in tasks:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    admission.check()
    failures = [result for result in results if result is not None]
    assert all(isinstance(failure, (DeadlineError, NotReadyError, asyncio.CancelledError)) for failure in failures)
    assert all(ticket.state is TicketState.OUT for ticket in tickets)
    return "failed" if failures else "served"


async def serve(admission: Admission, config: AdmissionConfig, actions: list[tuple[float, str]]) -> None:
    for pause_s, action in actions:
        await asyncio.sleep(pause_s)
        if action in ("pause", "drain", "resume", "abort_all"):
            getattr(admission, action)(*(["a pause"] if action == "pause" else []))
        elif action == "behind":
            admission.observe(100)
        elif action == "keys":
            admission.use_keys([C] if len(admission.waiting_by_key()) > 2 else KEYS)
        elif action == "resize":
            admission.ready(replace(config, max_num_seqs=3))
        else:
            admission.ready(config)
        admission.check()
        assert all(count >= 0 for count in admission.rejections.values())


@settings(max_examples=300, deadline=None)
@given(CLIENTS, SERVER, CONFIGS, st.booleans())
def test_nothing_stays_behind(
    clients: list[Client], actions: list[tuple[float, str]], config: AdmissionConfig, shared: bool
) -> None:
    async def main() -> None:
        keys = KEYS if shared else (A,)
        admission = opened(*keys, clock=now, config=config)
        visits = [asyncio.create_task(visit(admission, one, keys[one.key % len(keys)])) for one in clients]
        await serve(admission, config, actions)
        admission.resume()
        admission.check()
        ends = await asyncio.gather(*visits)
        assert set(ends) <= {"served", "failed", "refused"}
        assert_empty(admission)
        assert len(admission.waiting_by_key()) in (1, len(KEYS))
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_every_kind_of_end_happens_in_these_runs() -> None:
    """So that the property above is not about nothing: one run with all of them."""

    async def main() -> dict[str, int]:
        sizes = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 100, "max_num_queued_reqs": 100}
        config = AdmissionConfig(**sizes)
        admission = opened(*KEYS, clock=now, config=config)
        client = Client(0, 0.0, (10, 10), 1.0, 2.0, None, None)
        clients = [
            *[replace(client, key=number % 4) for number in range(8)],
            replace(client, deadline_s=0.5),
            replace(client, leaves_s=0.5),
            replace(client, leaves_s=2.5, key=3),
        ]
        visits = [asyncio.create_task(visit(admission, one, KEYS[one.key])) for one in clients]
        ends = await asyncio.gather(*visits)
        return {end: ends.count(end) for end in ("served", "failed", "refused")}

    assert run(main()) == {"served": 7, "failed": 3, "refused": 1}
