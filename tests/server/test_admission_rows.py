"""The door, for requests that take several rows of the engine: beam searches."""

from __future__ import annotations

import pytest
from admission_door import A, B, Clock, assert_empty, line_up, opened, refused, states
from jaxpaged_server.access.keys import ANONYMOUS, Key, KeyLimits
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.refusals import RateLimitedError

from jaxpaged.errors import ParameterError

SHARED = AdmissionConfig(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=100)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_ticket_of_several_rows_takes_as_many_places(clock: Clock) -> None:
    admission = opened(clock=clock)
    (beams,) = admission.line_up(ANONYMOUS, prompt_tokens=(10,), rows=4)
    single = line_up(admission, ANONYMOUS, 3)
    assert (admission.num_inside, states(single)) == (6, "IIW")
    (more,) = admission.line_up(ANONYMOUS, prompt_tokens=(10,), rows=3)
    admission.check()
    single[0].release()
    assert (states(single), more.state.name, admission.num_inside) == ("OII", "WAITING", 6)
    beams.release()
    assert (more.state.name, admission.num_inside) == ("INSIDE", 5)
    with pytest.raises(ParameterError, match="prompts times n is 6"):
        admission.line_up(ANONYMOUS, prompt_tokens=(10, 10), rows=3)
    for ticket in (*single, more):
        ticket.release()
    assert_empty(admission)


def test_beams_of_a_key_leave_the_last_rows_to_others_and_count_as_its_requests(clock: Clock) -> None:
    admission = opened(A, B, clock=clock, config=SHARED)
    first, second = (admission.line_up(A, prompt_tokens=(1,), rows=4)[0] for _ in range(2))
    assert (first.state.name, second.state.name) == ("INSIDE", "WAITING")  # eight rows would be all
    assert states(line_up(admission, B, 1)) == "I"
    first.release()
    assert second.state.name == "INSIDE"
    few = Key(name="few", limits=KeyLimits(max_concurrency=5))
    admission = opened(few, clock=clock, config=SHARED)
    (inside,) = admission.line_up(few, prompt_tokens=(1,), rows=4)
    assert refused(RateLimitedError, admission, few, rows=2).value == 6
    inside.release()
    (inside,) = admission.line_up(few, prompt_tokens=(1,), rows=5)
    inside.release()
    assert_empty(admission)
