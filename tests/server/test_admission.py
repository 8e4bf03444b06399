"""The door: what is let in, what waits, what is refused and with which words; and that no way out leaves anything."""

from __future__ import annotations

from dataclasses import replace

import pytest
from admission_door import CONFIG, A, B, C, Clock, assert_empty, line_up, opened, refused, states
from jaxpaged_server.access.keys import ANONYMOUS, Key, KeyLimits
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.admission.ticket import TicketState
from jaxpaged_server.refusals import NotReadyError, QueueFullError, RateLimitedError

from jaxpaged.errors import ParameterError


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_as_many_as_there_are_places_go_in_and_the_rest_in_order(clock: Clock) -> None:
    admission = opened(clock=clock)
    tickets = line_up(admission, ANONYMOUS, 9)
    assert states(tickets) == "IIIIIIWWW"
    tickets[3].release()
    assert states(tickets) == "IIIOIIIWW"
    tickets[7].release()
    tickets[7].release()
    tickets[3].release()
    assert states(tickets) == "IIIOIIIOW"
    for ticket in tickets:
        ticket.release()
    assert states(tickets) == "O" * 9
    assert_empty(admission)


def test_why_requests_wait(clock: Clock) -> None:
    alone = opened(clock=clock)
    line_up(alone, ANONYMOUS, 9)
    assert alone.waiting_by_reason() == (3, 0)
    shared = opened(A, B, C, clock=clock)
    assert shared.waiting_by_reason() == (0, 0)
    flood = line_up(shared, A, 6)
    assert states(flood) == "IIIWWW"  # 3 of 5 places: the rest is for keys with nothing inside
    assert shared.waiting_by_reason() == (0, 3)
    assert states(line_up(shared, B, 1) + line_up(shared, C, 1)) == "II"
    assert shared.waiting_by_reason() == (3, 0)  # all places are taken
    flood[0].release()
    assert shared.waiting_by_reason() == (0, 3)
    shared.pause("starting its engine again")
    assert shared.waiting_by_reason() == (3, 0)


def test_the_queue_is_bounded_in_requests(clock: Clock) -> None:
    admission = opened(clock=clock)
    tickets = line_up(admission, ANONYMOUS, 6 + 16)
    error = refused(QueueFullError, admission, ANONYMOUS)
    # 17 would have to leave, at 0.4 a second until something is measured
    assert error.retry_after_s == 43
    assert str(error) == (
        "requests of key 'anonymous' that would wait is 17: the queue takes 16 requests of all keys, and too few are "
        "left. Try again in 43 s"
    )
    assert admission.rejections["queue_full"] == 1
    for _ in range(10):
        clock.now += 0.5
        tickets.pop(0).release()
        line_up(admission, ANONYMOUS, 1)
    # 10 in 5 s, and the guess of 0.4 in one second
    assert refused(QueueFullError, admission, ANONYMOUS).retry_after_s == 10


def test_the_queue_is_bounded_in_tokens(clock: Clock) -> None:
    admission = opened(clock=clock)
    assert admission.max_waiting_tokens == 30 * 64
    admission.ready(replace(CONFIG, max_num_queued_tokens=100))
    assert admission.max_waiting_tokens == 100
    line_up(admission, ANONYMOUS, 6)
    line_up(admission, ANONYMOUS, 1, tokens=60)
    assert admission.num_waiting_tokens == 60
    error = refused(QueueFullError, admission, ANONYMOUS, prompt_tokens=(41,))
    assert admission.rejections["queue_tokens"] == 1
    assert "prompt tokens of key 'anonymous' that would wait is 101: the queue takes 100" in str(error)
    line_up(admission, ANONYMOUS, 1, tokens=40)
    refused(QueueFullError, admission, ANONYMOUS, prompt_tokens=(1,))


def test_one_request_may_wait_whatever_its_length(clock: Clock) -> None:
    admission = opened(clock=clock, config=replace(CONFIG, max_num_queued_tokens=100))
    line_up(admission, ANONYMOUS, 6)
    line_up(admission, ANONYMOUS, 1, tokens=5000)
    refused(QueueFullError, admission, ANONYMOUS, prompt_tokens=(1,))


def test_no_queue_at_all_is_possible(clock: Clock) -> None:
    config = replace(CONFIG, max_num_queued_reqs=0)
    admission = opened(clock=clock, config=config)
    tickets = line_up(admission, ANONYMOUS, 6)
    refused(QueueFullError, admission, ANONYMOUS)
    tickets[0].release()
    assert states(line_up(admission, ANONYMOUS, 1)) == "I"


def test_all_requests_of_an_http_request_are_taken_or_none(clock: Clock) -> None:
    admission = opened(clock=clock)
    first = admission.line_up(ANONYMOUS, prompt_tokens=(10, 0, 0, 0))
    line_up(admission, ANONYMOUS, 1)
    tickets = admission.line_up(ANONYMOUS, prompt_tokens=(5, 6, 7))
    assert states([*first, *tickets]) == "IIIIIWW"
    assert admission.num_waiting_tokens == 13
    line_up(admission, ANONYMOUS, 12)
    assert refused(QueueFullError, admission, ANONYMOUS, prompt_tokens=(1, 1, 1)).value == 17
    for wrong in ((), (1,) * 5):
        with pytest.raises(ParameterError, match=r"prompts times n .*1 to 4 may go together"):
            admission.line_up(ANONYMOUS, prompt_tokens=wrong)


# Several keys: 8 rows, 7 of them for all, 9 places, 64 prompt tokens unstarted; light is who has nothing inside.
SHARED = AdmissionConfig(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=100)


def test_keys_take_turns_by_tokens(clock: Clock) -> None:
    admission = opened(A, B, C, clock=clock, config=replace(SHARED, max_num_batched_tokens=1000))
    inside = line_up(admission, A, 4) + line_up(admission, B, 3)
    # a took 40; b was lifted to that and took 30; a and c are lifted to 70 as they come
    waiting = line_up(admission, A, 4) + line_up(admission, B, 2) + line_up(admission, C, 2, tokens=25)
    assert states(waiting) == "WWWWWWIW"
    assert [ticket.account.flow.counter for ticket in waiting[::4]] == [70.0, 70.0]
    assert waiting[7].account.flow.counter == 95.0
    order: list[int] = []
    inside.append(waiting[6])
    for _ in range(8):
        before = states(waiting)
        inside.pop(0).release()
        order += [i for i, was in enumerate(before) if was == "W" and waiting[i].state is TicketState.INSIDE]
        admission.check()
    # a at 70 80 90 100, b at 70 80, c at 95; two must go first, for c is the eighth inside
    assert order == [0, 4, 1, 5, 2, 7, 3]


def test_a_flood_leaves_a_row_to_whoever_comes(clock: Clock) -> None:
    admission = opened(A, B, C, clock=clock, config=replace(SHARED, max_num_batched_tokens=1000))
    flood = line_up(admission, A, 9) + line_up(admission, C, 4)
    assert states(flood) == "IIIIIIIWW" + "IWWW"
    theirs = line_up(admission, B, 2)
    assert states(theirs) == "IW"
    flood[0].release()
    flood[1].release()
    assert states(flood) == "OOIIIIIWW" + "IWWW"
    flood[2].release()
    assert states(flood) == "OOOIIIIIW" + "IWWW", "a is at 70, c at 80"
    admission.use_keys([A])
    assert [ticket.account.load.inside for ticket in (flood[3], theirs[0], flood[9])] == [6, 2, 2]
    admission.check()


def test_one_key_leaves_half_of_the_queue_to_the_others(clock: Clock) -> None:
    admission = opened(A, B, clock=clock, config=replace(SHARED, max_num_batched_tokens=1000))
    line_up(admission, A, 7 + 16)
    refused(QueueFullError, admission, A)
    line_up(admission, B, 1 + 8)
    refused(QueueFullError, admission, B)
    assert admission.waiting_by_key() == {"a": 16, "b": 8}
    assert admission.rejections["queue_full"] == 2


def test_one_key_leaves_half_of_the_queues_tokens_to_the_others(clock: Clock) -> None:
    admission = opened(A, B, clock=clock, config=replace(SHARED, max_num_queued_tokens=100))
    line_up(admission, A, 2, tokens=50)
    assert admission.num_waiting_tokens == 50
    refused(QueueFullError, admission, A, prompt_tokens=(1,))
    line_up(admission, B, 2, tokens=20)
    refused(QueueFullError, admission, B, prompt_tokens=(16,))
    line_up(admission, B, 1, tokens=5)
    assert admission.rejections["queue_tokens"] == 2


def test_a_key_with_nothing_in_the_queue_may_have_what_is_left_of_it(clock: Clock) -> None:
    many = [Key(name=f"k{number}") for number in range(9)]
    config = replace(SHARED, max_num_batched_tokens=1000, max_num_queued_reqs=8)
    admission = opened(A, B, *many, clock=clock, config=config)
    inside = [line_up(admission, key, 1)[0] for key in many]
    line_up(admission, A, 4)
    refused(QueueFullError, admission, A)
    assert states(admission.line_up(B, prompt_tokens=(1, 1, 1))) == "WWW"
    refused(QueueFullError, admission, B)
    assert states(line_up(admission, many[0], 1)) == "W"
    refused(QueueFullError, admission, many[1])
    inside[0].release()
    assert admission.waiting_by_key()["a"] == 3


def test_who_would_stand_behind_others_is_bounded_as_they_are(clock: Clock) -> None:
    """One prompt that is too long for now waits, with places free: a short one behind it has to wait, too."""
    admission = opened(A, B, clock=clock, config=replace(SHARED, max_num_queued_reqs=1))
    assert states(line_up(admission, A, 2, tokens=30) + line_up(admission, A, 1, tokens=100)) == "IIW"
    assert states(line_up(admission, B, 1, tokens=1)) == "I"
    refused(QueueFullError, admission, B, prompt_tokens=(2,))


def test_a_key_with_a_long_prompt_that_has_not_started_is_not_light(clock: Clock) -> None:
    config = AdmissionConfig(max_num_seqs=32, max_num_batched_tokens=64, max_model_len=100)
    admission = opened(A, B, C, clock=clock, config=config)
    line_up(admission, A, 2, tokens=32)
    assert states(line_up(admission, A, 1)) == "W"
    assert states(line_up(admission, B, 4, tokens=8)) == "IIWW"
    assert states(line_up(admission, C, 6, tokens=1)) == "IIIIWW"
    admission.check()


def test_prompts_that_wait_for_a_step_do_not_hold_up_a_newcomer(clock: Clock) -> None:
    admission = opened(A, B, clock=clock, config=SHARED)
    flood = line_up(admission, A, 5, tokens=30)
    assert states(flood) == "IIWWW"
    other = line_up(admission, B, 2, tokens=100)
    assert states(other) == "IW"
    flood[0].charge(1)
    assert states(flood) == "IIWWW", "b's prompt is there, too"
    other[0].charge(1)
    assert states(flood + other) == "IIIWW" + "IW"
    flood[0].charge(1)
    assert states(flood + other) == "IIIWW" + "IW"
    flood[1].release()
    flood[2].charge(1)
    assert states(flood + other) == "IOIII" + "IW"
    admission.check()


def test_a_long_queue_in_the_engine_holds_up_who_has_something_inside(clock: Clock) -> None:
    admission = opened(A, B, C, clock=clock, config=SHARED)
    admission.observe(2)
    flood, other = line_up(admission, A, 4), line_up(admission, B, 2)
    assert states(flood + other) == "IWWW" + "IW"
    flood[0].charge(1)
    assert states(flood + other) == "IWWW" + "IW"
    other[0].charge(1)
    assert states(flood + other) == "IIWW" + "IW", "one goes in for each that starts"
    assert states(line_up(admission, C, 1)) == "I"
    admission.observe(1)
    assert states(flood + other) == "IIII" + "II"
    admission.check()


def test_an_entry_that_leaves_does_not_hold_up_a_shorter_one_behind_it(clock: Clock) -> None:
    admission = opened(A, B, clock=clock, config=SHARED)
    tickets = [
        *line_up(admission, A, 2, tokens=30),
        *line_up(admission, A, 1, tokens=100),
        *line_up(admission, A, 1, 4),
    ]
    assert states(tickets) == "IIWW"
    tickets[2].release()
    assert states(tickets) == "IIOI"


def test_rates_are_refused_with_their_reason(clock: Clock) -> None:
    limits = KeyLimits(max_concurrency=2, requests_per_minute=60, tokens_per_minute=600)
    config = replace(SHARED, max_num_batched_tokens=1000)
    admission = opened(Key(name="a", limits=limits), B, clock=clock, config=config)
    tickets = line_up(admission, A, 2, tokens=300)
    assert refused(RateLimitedError, admission, A).retry_after_s == 1
    tickets[0].charge(30)
    tickets[0].release()
    assert refused(RateLimitedError, admission, A).retry_after_s == 4
    assert states(line_up(admission, B, 3)) == "III"
    clock.now = 4.0
    assert states(line_up(admission, A, 1)) == "I"
    counts = {reason: count for reason, count in admission.rejections.items() if count}
    assert counts == {"concurrency": 1, "tokens_per_minute": 1}


def test_a_prompt_that_never_went_in_does_not_count_for_the_rate(clock: Clock) -> None:
    admission = opened(Key(name="a", limits=KeyLimits(tokens_per_minute=100)), clock=clock)
    tickets = line_up(admission, A, 7, tokens=10)
    refused(RateLimitedError, admission, A, prompt_tokens=(40,))
    assert states(tickets) == "IIIIIIW"
    tickets[0].release()
    tickets[1].release()
    refused(RateLimitedError, admission, A, prompt_tokens=(31,))
    (waiting,) = line_up(admission, A, 2, tokens=10)[1:]
    refused(RateLimitedError, admission, A, prompt_tokens=(11,))
    waiting.release()
    line_up(admission, A, 1, tokens=20)


def test_starting_paused_and_shutting_down(clock: Clock) -> None:
    admission = Admission(clock=clock)
    assert not admission.is_open
    assert refused(NotReadyError, admission, ANONYMOUS).retry_after_s == 5
    admission.ready(CONFIG)
    assert admission.is_open
    tickets = line_up(admission, ANONYMOUS, 8)
    admission.pause("the engine starts again", retry_after_s=9)
    error = refused(NotReadyError, admission, ANONYMOUS)
    assert (error.value, error.retry_after_s) == ("the engine starts again", 9)
    tickets[0].release()
    assert states(tickets) == "OIIIIIWW"
    admission.resume()
    assert states(tickets) == "OIIIIIIW"
    admission.drain()
    assert refused(NotReadyError, admission, ANONYMOUS).value == "shutting down"
    tickets[1].release()
    assert states(tickets) == "OOIIIIII"
    admission.pause("x")
    admission.resume()
    assert refused(NotReadyError, admission, ANONYMOUS).value == "shutting down"
    assert admission.rejections["not_ready"] == 4


def test_a_new_engine_does_not_undo_an_operators_pause(clock: Clock) -> None:
    admission = opened(clock=clock)
    tickets = line_up(admission, ANONYMOUS, 7)
    admission.pause("paused by its operator", until_resume=True)
    admission.pause("the engine starts again", retry_after_s=9)
    tickets[0].release()
    admission.ready(CONFIG)
    error = refused(NotReadyError, admission, ANONYMOUS)
    assert (error.value, error.retry_after_s) == ("paused", None)
    assert states(tickets) == "OIIIIIW"
    admission.resume()
    assert states(tickets) == "OIIIIII"
    admission.pause("the engine starts again")
    admission.ready(CONFIG)
    assert admission.is_open


def test_a_pause_is_not_a_slow_queue(clock: Clock) -> None:
    admission = opened(clock=clock)
    tickets = line_up(admission, ANONYMOUS, 22)
    before = refused(QueueFullError, admission, ANONYMOUS).retry_after_s
    admission.pause("x")
    clock.now = 1000.0
    tickets.pop(-1).release()
    clock.now = 2000.0
    admission.resume()
    line_up(admission, ANONYMOUS, 1)
    assert refused(QueueFullError, admission, ANONYMOUS).retry_after_s == before


def test_other_keys_after_a_reload(clock: Clock) -> None:
    admission = opened(A, B, clock=clock)
    tickets = line_up(admission, A, 5)
    admission.use_keys([Key(name="b", limits=KeyLimits(max_concurrency=1)), C])
    assert set(admission.waiting_by_key()) == {"a", "b", "c"}
    line_up(admission, B, 1)
    refused(RateLimitedError, admission, B)
    # one that was let through before the reload, by a key that is gone
    late = line_up(admission, Key(name="z"), 1)
    for ticket in [*tickets, *late]:
        ticket.release()
    assert set(admission.waiting_by_key()) == {"b", "c"}
    admission.check()


def test_tokens_that_come_after_the_release_are_not_counted(clock: Clock) -> None:
    admission = opened(A, B, clock=clock)
    (ticket,) = line_up(admission, A, 1)
    ticket.charge(0)
    assert not ticket.started
    ticket.release()
    ticket.charge(5)
    assert ticket.account.flow.counter == 10.0


def test_a_closed_door_refuses_before_anybody_reads_a_request() -> None:
    admission = Admission(clock=Clock())
    with pytest.raises(NotReadyError, match="starting"):
        admission.check_room(ANONYMOUS)
    admission.ready(CONFIG)
    admission.check_room(ANONYMOUS)
    admission.pause("paused by its operator", retry_after_s=3)
    with pytest.raises(NotReadyError, match="paused") as refused_now:
        admission.check_room(ANONYMOUS)
    assert refused_now.value.retry_after_s == 3
    admission.resume()
    admission.drain()
    with pytest.raises(NotReadyError, match="shutting down"):
        admission.check_room(ANONYMOUS)
    assert admission.rejections["not_ready"] == 3


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
