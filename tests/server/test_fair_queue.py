"""Virtual token counters: literal orders, and the paper's bound in a simulation that keeps accounts of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxpaged_server.admission.fair_queue import OUTPUT_PRICE, PROMPT_PRICE, Entry, FairQueue, Flow

Queue = FairQueue[str]


def flows(*weights: float) -> list[Flow[str]]:
    return [Flow(name="abcdef"[i], weight=weight) for i, weight in enumerate(weights)]


def order(queue: Queue, count: int) -> str:
    """The items of the next turns."""
    taken: list[str] = []
    for _ in range(count):
        entry = queue.next()
        assert entry is not None
        queue.take(entry)
        taken.append(entry.item)
    return " ".join(taken)


def test_the_prices_are_the_papers() -> None:
    assert (PROMPT_PRICE, OUTPUT_PRICE) == (1.0, 2.0)


def test_a_flood_and_a_trickle_take_turns() -> None:
    queue, (a, b) = Queue(), flows(1, 1)
    for number in range(6):
        queue.push(a, f"a{number}", 10)
    queue.push(b, "b0", 10)
    queue.push(b, "b1", 10)
    assert order(queue, 8) == "a0 b0 a1 b1 a2 a3 a4 a5"
    assert queue.next() is None
    assert len(queue) == 0


def test_long_prompts_get_fewer_turns() -> None:
    queue, (a, b) = Queue(), flows(1, 1)
    for number in range(3):
        queue.push(a, f"a{number}", 40)
    for number in range(9):
        queue.push(b, f"b{number}", 10)
    # counters: a 40, b 10 20 30 40, then a (earlier at 40) to 80, b 50 ... 80, a
    assert order(queue, 11) == "a0 b0 b1 b2 b3 a1 b4 b5 b6 b7 a2"


def test_answers_count_double() -> None:
    queue, (a, b) = Queue(), flows(1, 1)
    for number in range(3):
        queue.push(a, f"a{number}", 10)
        queue.push(b, f"b{number}", 10)
    assert order(queue, 2) == "a0 b0"
    queue.charge(a, 6)
    assert (a.counter, b.counter) == (22.0, 10.0)
    assert order(queue, 4) == "b1 b2 a1 a2"


def test_twice_the_weight_gets_twice_the_tokens() -> None:
    queue, (a, b) = Queue(), flows(1, 2)
    for number in range(6):
        queue.push(a, f"a{number}", 10)
        queue.push(b, f"b{number}", 10)
    assert order(queue, 9) == "a0 b0 b1 a1 b2 b3 a2 b4 b5"


def test_who_comes_back_has_no_credit_from_idling() -> None:
    queue, (a, b) = Queue(), flows(1, 1)
    queue.push(b, "b0", 10)
    for number in range(10):
        queue.push(a, f"a{number}", 10)
    assert order(queue, 8) == "b0 a0 a1 a2 a3 a4 a5 a6"
    for number in range(1, 4):
        queue.push(b, f"b{number}", 10)
    assert b.counter == a.counter == 70.0
    assert order(queue, 6) == "a7 b1 a8 b2 a9 b3"


def test_who_comes_to_an_empty_queue_is_lifted_to_who_left_last() -> None:
    queue, (a, b) = Queue(), flows(1, 1)
    queue.push(a, "a0", 10)
    assert order(queue, 1) == "a0"
    queue.charge(a, 5)
    queue.push(b, "b0", 10)
    assert b.counter == 20.0


def test_who_was_served_much_keeps_its_debt_while_away() -> None:
    queue, (a, b) = Queue(), flows(1, 1)
    queue.push(a, "a0", 100)
    queue.push(b, "b0", 10)
    assert order(queue, 2) == "a0 b0"
    queue.push(b, "b1", 10)
    queue.push(a, "a1", 10)
    queue.push(b, "b2", 10)
    assert order(queue, 3) == "b1 b2 a1"


def test_an_entry_can_leave_from_anywhere_and_is_not_charged() -> None:
    queue, (a, b) = Queue(), flows(1, 1)
    entries = [queue.push(a, f"a{number}", 10) for number in range(4)]
    queue.push(b, "b0", 10)
    queue.remove(entries[0])
    queue.remove(entries[2])
    assert a.counter == 0.0
    assert len(queue) == 3
    assert order(queue, 3) == "a1 b0 a3"
    queue.check([a, b])


def test_nothing_is_charged_by_looking() -> None:
    queue, (a,) = Queue(), flows(1)
    entry = queue.push(a, "a0", 10)
    assert queue.next() is queue.next() is entry
    assert a.counter == 0.0


def test_light_flows_have_an_order_of_their_own() -> None:
    queue, (a, b, c) = Queue(), flows(1, 1, 1)
    for flow, tokens in ((a, 10), (b, 30), (c, 20)):
        for number in range(2):
            queue.push(flow, f"{flow.name}{number}", tokens)
    queue.set_light(a, False)
    assert queue.next() is queue.next(light=False) is next(iter(a.waiting))
    for item in ("b0", "c0", "c1", "b1"):
        entry = queue.next(light=True)
        assert entry is not None
        assert entry.item == item
        queue.take(entry)
    assert queue.next(light=True) is None
    queue.set_light(a, True)
    assert queue.next(light=True) is next(iter(a.waiting))


def test_nothing_is_kept_of_flows_that_are_gone() -> None:
    queue, kept = Queue(), Flow[str](name="kept")
    queue.push(kept, "k", 1)
    for number in range(100):
        flow = Flow[str](name=f"f{number}", counter=5.0)
        queue.remove(queue.push(flow, "x", 1))
        queue.forget(flow)
    assert queue._all.members == queue._light.members == {kept}
    queue.check([kept])


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "take", "take", "remove", "charge", "light", "heavy", "forget"]),
        st.integers(0, 3),
        st.integers(0, 50),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS, st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=4, max_size=4))
def test_the_heap_agrees_with_a_search_through_all(
    operations: list[tuple[str, int, int]], weights: list[float]
) -> None:
    queue, all_flows = Queue(), flows(*weights)
    entries: list[Entry[str]] = []
    for kind, which, number in operations:
        flow = all_flows[which]
        if kind == "push":
            entries.append(queue.push(flow, f"{flow.name}{number}", number))
        elif kind == "remove" and entries:
            queue.remove(entries.pop(number % len(entries)))
        elif kind == "charge":
            queue.charge(flow, number)
        elif kind in ("light", "heavy"):
            queue.set_light(flow, kind == "light")
        elif kind == "forget" and not flow.waiting:
            queue.forget(flow)
        elif kind == "take" and (entry := queue.next(light=number % 2 == 0)) is not None:
            queue.take(entry)
            assert entry is next(other for other in entries if other.flow is entry.flow), "not in the flow's order"
            entries.remove(entry)
        for light in (False, True):
            waiting = [flow for flow in all_flows if flow.waiting and (flow.light or not light)]
            upcoming = queue.next(light=light)
            assert (upcoming is None) == (not waiting)
            if upcoming is not None:
                assert upcoming.flow in waiting
                assert upcoming.flow.counter == min(flow.counter for flow in waiting)
        assert len(queue) == len(entries)
        queue.check(all_flows)


# The paper's bound. The simulation keeps accounts of its own, and uses push, next, take and charge only.

LONGEST_PROMPT, LONGEST_ANSWER = 40, 12
ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 40),  # step
        st.sampled_from([0, 0, 0, 1, 1, 2, 3]),  # client: one asks for more than the others
        st.integers(1, LONGEST_PROMPT),
        st.integers(1, LONGEST_ANSWER),
    ),
    min_size=10,
    max_size=90,
)


@dataclass
class Running:
    client: int
    held: int  # tokens of memory
    left: int


@dataclass
class Client:
    weight: float
    served: float = 0.0  # by price and weight: W of the paper


@dataclass
class Simulation:
    """Continuous batching as in the paper: requests are let in while they fit into `memory`, all run step by step."""

    memory: int
    weights: list[float]
    pick: Callable[[Queue], Entry[str] | None] = Queue.next

    def __post_init__(self) -> None:
        self.queue, self.flows = Queue(), flows(*self.weights)
        self.clients = [Client(weight) for weight in self.weights]
        self.waiting = [0] * len(self.weights)
        self.running: list[Running] = []
        self.differences: dict[tuple[int, int], tuple[float, float]] = {}
        self.worst = 0.0

    def arrive(self, client: int, prompt: int, answer: int) -> None:
        self.queue.push(self.flows[client], f"{client} {prompt} {answer}", prompt)
        self.waiting[client] += 1
        self.note()

    def step(self) -> None:
        while (entry := self.pick(self.queue)) is not None:
            client, prompt, answer = map(int, entry.item.split())
            if sum(one.held for one in self.running) + prompt + answer > self.memory:
                break
            self.queue.take(entry)
            self.running.append(Running(client, prompt + answer, answer))
            self.clients[client].served += PROMPT_PRICE * prompt / self.weights[client]
            self.waiting[client] -= 1
            self.note()
        for one in self.running:
            one.left -= 1
            self.queue.charge(self.flows[one.client], 1)
            self.clients[one.client].served += OUTPUT_PRICE / self.weights[one.client]
        self.running = [one for one in self.running if one.left]
        self.note()

    def note(self) -> None:
        """For each pair that waits all the time: how far the services since then are apart, at their worst."""
        for pair in combinations(range(len(self.clients)), 2):
            first, second = pair
            if self.waiting[first] and self.waiting[second]:
                apart = self.clients[first].served - self.clients[second].served
                low, high = self.differences.get(pair, (apart, apart))
                self.differences[pair] = low, high = min(low, apart), max(high, apart)
                self.worst = max(self.worst, high - low)
            else:
                self.differences.pop(pair, None)

    @property
    def bound(self) -> float:
        most = max(PROMPT_PRICE * LONGEST_PROMPT, OUTPUT_PRICE * self.memory)
        return 2 * most / min(self.weights)


@settings(max_examples=200, deadline=None)
@given(
    ARRIVALS,
    st.sampled_from([LONGEST_PROMPT + LONGEST_ANSWER, 80, 150]),
    st.sampled_from([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 1.0, 0.5], [4.0, 1.0, 1.0, 1.0]]),
)
def test_the_papers_bound_holds(arrivals: list[tuple[int, int, int, int]], memory: int, weights: list[float]) -> None:
    simulation = Simulation(memory, weights)
    coming = deque(sorted(arrivals))
    for step in range(2000):
        while coming and coming[0][0] == step:
            simulation.arrive(*coming.popleft()[1:])
        simulation.step()
        if not coming and not len(simulation.queue) and not simulation.running:
            break
    else:
        pytest.fail("the queue never drained")
    assert simulation.worst <= simulation.bound


def saturated(simulation: Simulation, steps: int) -> Simulation:
    """Two clients with far more work than can be done: one with long prompts, one with long answers."""
    for _ in range(2000):
        simulation.arrive(0, LONGEST_PROMPT, 2)
        simulation.arrive(1, 2, LONGEST_ANSWER)
    for _ in range(steps):
        simulation.step()
    return simulation


def test_the_bound_does_not_grow_with_time_and_is_not_idle() -> None:
    short, long = (saturated(Simulation(80, [1.0, 1.0]), steps) for steps in (200, 1000))
    assert short.bound == 320.0
    assert short.worst == long.worst
    assert long.worst == 148.0


def test_first_come_first_served_breaks_the_bound() -> None:
    def oldest(queue: Queue) -> Entry[str] | None:
        entries = [entry for flow in simulation.flows for entry in flow.waiting]
        return min(entries, key=arrived.index) if entries else None

    simulation = Simulation(80, [1.0, 1.0], oldest)
    arrived: list[Entry[str]] = []
    for client, count in ((0, 60), (1, 60)):
        for _ in range(count):
            simulation.arrive(client, LONGEST_PROMPT, 2)
            arrived.append(next(reversed(simulation.flows[client].waiting)))
    for _ in range(100):
        simulation.step()
    assert simulation.worst > simulation.bound


def test_service_follows_the_weights() -> None:
    simulation = saturated(Simulation(80, [1.0, 3.0]), 400)
    first, second = (client.served * client.weight for client in simulation.clients)
    assert second / first == pytest.approx(3.0, rel=0.02)


def test_an_operation_costs_no_more_with_a_hundred_times_the_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in heap operations: one push and a few pops a turn, however many keys wait."""
    import heapq

    counts = {"heappush": 0, "heappop": 0}
    for name in counts:
        real = getattr(heapq, name)

        def counted(*arguments: object, name: str = name, real: Callable[..., object] = real) -> object:
            counts[name] += 1
            return real(*arguments)

        monkeypatch.setattr(heapq, name, counted)
    for number in (10, 1000):
        queue, many = Queue(), [Flow[str](name=f"f{i}") for i in range(number)]
        for flow in many:
            for _ in range(3):
                queue.push(flow, flow.name, 7)
        counts.update(heappush=0, heappop=0)
        for _ in range(2 * number):
            entry = queue.next()
            assert entry is not None
            queue.take(entry)
            queue.charge(entry.flow, 1)
        assert counts["heappush"] + counts["heappop"] <= 4 * 2 * number, number
