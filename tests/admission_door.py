"""What the tests of admission share: a small door, and words for what is seen at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from jaxpaged_server.access.keys import ANONYMOUS, Key
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.admission.ticket import Ticket
from jaxpaged_server.refusals import RefusalError

CONFIG = AdmissionConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=100)
A, B, C = (Key(name=name) for name in "abc")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(*keys: Key, clock: Callable[[], float], config: AdmissionConfig = CONFIG) -> Admission:
    admission = Admission(keys or (ANONYMOUS,), clock=clock)
    admission.ready(config)
    return admission


def line_up(admission: Admission, key: Key, count: int, tokens: int = 10) -> list[Ticket]:
    """That many HTTP requests of one request each."""
    return [ticket for _ in range(count) for ticket in admission.line_up(key, prompt_tokens=(tokens,))]


async def enter(admission: Admission, key: Key, tokens: int = 10, *, deadline_s: float | None = None) -> Ticket:
    """One request of its own, when its turn has come."""
    (ticket,) = admission.line_up(key, prompt_tokens=(tokens,), deadline_s=deadline_s)
    await ticket.turn()
    return ticket


def states(tickets: Sequence[Ticket]) -> str:
    return "".join(ticket.state.name[0] for ticket in tickets)


def refused(kind: type[RefusalError], admission: Admission, key: Key, **options: Any) -> RefusalError:
    before = admission.num_waiting, admission.num_inside, admission.num_waiting_tokens
    with pytest.raises(kind) as caught:
        admission.line_up(key, **{"prompt_tokens": (10,), **options})
    assert before == (admission.num_waiting, admission.num_inside, admission.num_waiting_tokens)
    admission.check()
    return caught.value


def assert_empty(admission: Admission) -> None:
    assert (admission.num_inside, admission.num_waiting, admission.num_waiting_tokens) == (0, 0, 0)
    assert not any(admission.waiting_by_key().values())
    admission.check()
