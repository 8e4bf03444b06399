"""Whose turn it is: weighted fair queueing by tokens. [no jax]

The virtual token counters of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024, arXiv:2401.00588),
with weights. Each flow (a key) has a counter of what it was served: prompt tokens when they are let in, answer tokens
as they come, by price, divided by the flow's weight. The flow with the least counter goes next, its requests in their
order. A flow that comes (back) is lifted to the least counter of those that wait, so idling earns no credit.

The bound (their theorem 4.4): while two flows wait all the time, what they were served differs by at most

    2 max(PROMPT_PRICE * longest prompt, OUTPUT_PRICE * M) / least weight

however much each asks for; M is the number of tokens that those let in may hold together.

A flow may be parked: something other than its turn holds it up. It then counts as gone, and as come back when
unparked, so it earns no credit in that time either.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")

PROMPT_PRICE = 1.0
OUTPUT_PRICE = 2.0
"""An answer's token is served by a row of its own, a prompt's shares one: the paper's prices."""


@dataclass(slots=True, eq=False, kw_only=True)
class Flow(Generic[Item]):
    """One key's line. The owner of the queue makes it; the queue holds it only while it has something to do with it."""

    name: str
    weight: float = 1.0
    counter: float = 0.0
    waiting: OrderedDict[Entry[Item], None] = field(default_factory=OrderedDict)
    parked: bool = False
    in_heap: bool = False  # also for a while after it left: see FairQueue

    @property
    def competes(self) -> bool:
        return bool(self.waiting) and not self.parked


@dataclass(slots=True, eq=False)
class Entry(Generic[Item]):
    """A place in a flow's line. tokens: of the prompt, charged when it is taken."""

    flow: Flow[Item]
    item: Item
    tokens: int


class FairQueue(Generic[Item]):
    """The lines of all flows. Every operation is O(log flows), amortised; no clock.

    The heap is lazy: counters only grow, so an old value is a lower bound, put right when it comes to the top. A flow
    is in it at most once.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Flow[Item]]] = []
        self._last: Flow[Item] | None = None  # the flow that was the last to leave
        self._serial = 0  # orders equal counters: whoever came into the heap earlier goes first
        self._num_waiting = 0

    def __len__(self) -> int:
        """Entries that wait, those of parked flows included."""
        return self._num_waiting

    def push(self, flow: Flow[Item], item: Item, tokens: int) -> Entry[Item]:
        """Put an item at the end of the flow's line."""
        if not flow.waiting and not flow.parked:
            self._join(flow)
        entry = Entry(flow, item, tokens)
        flow.waiting[entry] = None
        self._num_waiting += 1
        return entry

    def next(self) -> Entry[Item] | None:
        """Whose turn it is; None where no flow competes. Nothing is charged before `take`."""
        flow = self._least()
        return None if flow is None else next(iter(flow.waiting))

    def take(self, entry: Entry[Item]) -> None:
        """Let the first of a flow's line in, and charge its prompt."""
        assert next(iter(entry.flow.waiting)) is entry, f"an entry of {entry.flow.name!r} is taken out of its order"
        self.remove(entry)
        entry.flow.counter += PROMPT_PRICE * entry.tokens / entry.flow.weight

    def remove(self, entry: Entry[Item]) -> None:
        """Take an entry out, wherever it stands in its line; nothing is charged."""
        flow = entry.flow
        del flow.waiting[entry]
        self._num_waiting -= 1
        if not flow.waiting and not flow.parked:
            self._last = flow

    def charge(self, flow: Flow[Item], output_tokens: int) -> None:
        """Note tokens of an answer of this flow."""
        flow.counter += OUTPUT_PRICE * output_tokens / flow.weight

    def park(self, flow: Flow[Item]) -> None:
        """Let others go first until `unpark`."""
        if flow.competes:
            self._last = flow
        flow.parked = True

    def unpark(self, flow: Flow[Item]) -> None:
        """Let the flow compete again."""
        if flow.parked and flow.waiting:
            self._join(flow)
        flow.parked = False

    def forget(self, flow: Flow[Item]) -> None:
        """Let go of a flow that will not come back; O(flows)."""
        assert not flow.waiting, f"{len(flow.waiting)} of {flow.name!r} still wait"
        if flow.in_heap:
            self._heap = [item for item in self._heap if item[2] is not flow]
            heapq.heapify(self._heap)
            flow.in_heap = False

    def check(self, flows: Collection[Flow[Item]]) -> None:
        """Assert that the heap is right for these flows, all there are."""
        in_heap = [flow for _, _, flow in self._heap]
        assert len(in_heap) == len(set(map(id, in_heap))), "a flow is in the heap twice"
        assert set(map(id, in_heap)) == {id(flow) for flow in flows if flow.in_heap}
        assert all(flow.in_heap for flow in flows if flow.competes), "a flow waits for a turn that never comes"
        assert all(value <= flow.counter for value, _, flow in self._heap), "a counter went down"
        assert self._num_waiting == sum(len(flow.waiting) for flow in flows)

    def _join(self, flow: Flow[Item]) -> None:
        # it does not compete yet: it must not be lifted to itself
        assert not flow.competes
        least = self._least() or self._last
        if least is not None:
            flow.counter = max(flow.counter, least.counter)
        if not flow.in_heap:
            flow.in_heap = True
            self._put(flow)

    def _put(self, flow: Flow[Item]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (flow.counter, self._serial, flow))

    def _least(self) -> Flow[Item] | None:
        heap = self._heap
        while heap:
            value, _, flow = heap[0]
            if value == flow.counter and flow.competes:
                return flow
            heapq.heappop(heap)
            if flow.competes:
                self._put(flow)
            else:
                flow.in_heap = False
        return None
