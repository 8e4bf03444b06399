"""Whose turn it is: weighted fair queueing by tokens. [no jax]

The virtual token counters of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024, arXiv:2401.00588),
with weights. Each flow (a key) has a counter of what it was served: prompt tokens when they are let in, answer tokens
as they come, by price, divided by the flow's weight. The flow with the least counter goes next, its requests in their
order. A flow that comes (back) is lifted to the least counter of those that wait, so idling earns no credit.

The bound (their theorem 4.4): while two flows wait all the time, what they were served differs by at most

    2 max(PROMPT_PRICE * longest prompt, OUTPUT_PRICE * M) / least weight

however much each asks for; M is the number of tokens that those let in may hold together.
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
    """One key's line. The owner of the queue makes it; the queue holds it only while something waits, and a bit longer.

    light: set by `FairQueue.set_light`.
    """

    name: str
    weight: float = 1.0
    counter: float = 0.0
    light: bool = True
    waiting: OrderedDict[Entry[Item], None] = field(default_factory=OrderedDict)


@dataclass(slots=True, eq=False)
class Entry(Generic[Item]):
    """A place in a flow's line. tokens: of the prompt, charged when it is taken."""

    flow: Flow[Item]
    item: Item
    tokens: int


class _Heap(Generic[Item]):
    """Flows by counter, lazily: counters only grow, so an old value is a lower bound, put right at the top.

    Equal counters: whoever came into the heap earlier goes first.
    """

    def __init__(self) -> None:
        self.members: set[Flow[Item]] = set()
        self._items: list[tuple[float, int, Flow[Item]]] = []
        self._serial = 0

    def add(self, flow: Flow[Item]) -> None:
        if flow not in self.members:
            self.members.add(flow)
            self._push(flow)

    def least(self, *, light: bool) -> Flow[Item] | None:
        """The flow with the least counter of those that wait, and are light if that is asked; drops others it meets."""
        items = self._items
        while items:
            value, _, flow = items[0]
            wanted = bool(flow.waiting) and (flow.light or not light)
            if wanted and value == flow.counter:
                return flow
            heapq.heappop(items)
            if wanted:
                self._push(flow)
            else:
                self.members.remove(flow)
        return None

    def forget(self, flow: Flow[Item]) -> None:
        if flow in self.members:
            self.members.remove(flow)
            self._items = [item for item in self._items if item[2] is not flow]
            heapq.heapify(self._items)

    def _push(self, flow: Flow[Item]) -> None:
        self._serial += 1
        heapq.heappush(self._items, (flow.counter, self._serial, flow))


class FairQueue(Generic[Item]):
    """The lines of all flows. Every operation but `forget` is O(log flows), amortised; no clock."""

    def __init__(self) -> None:
        self._all: _Heap[Item] = _Heap()
        self._light: _Heap[Item] = _Heap()
        self._last: Flow[Item] | None = None  # the flow that was the last to have nothing waiting any more
        self._num_waiting = 0

    def __len__(self) -> int:
        """Entries that wait."""
        return self._num_waiting

    def push(self, flow: Flow[Item], item: Item, tokens: int) -> Entry[Item]:
        """Put an item at the end of the flow's line."""
        joins = not flow.waiting
        if joins and (least := self._all.least(light=False) or self._last) is not None:
            flow.counter = max(flow.counter, least.counter)
        entry = Entry(flow, item, tokens)
        flow.waiting[entry] = None
        self._num_waiting += 1
        if joins:
            self._add(flow)
        return entry

    def next(self, *, light: bool = False) -> Entry[Item] | None:
        """Whose turn it is, among light flows if asked; None where none waits. Nothing is charged before `take`."""
        flow = (self._light if light else self._all).least(light=light)
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
        if not flow.waiting:
            self._last = flow

    def charge(self, flow: Flow[Item], output_tokens: int) -> None:
        """Note tokens of an answer of this flow."""
        flow.counter += OUTPUT_PRICE * output_tokens / flow.weight

    def set_light(self, flow: Flow[Item], light: bool) -> None:
        """Say whether the flow has little at present; what that means is the caller's."""
        if light != flow.light:
            flow.light = light
            if flow.waiting:
                self._add(flow)

    def forget(self, flow: Flow[Item]) -> None:
        """Let go of a flow that will not come back; O(flows)."""
        assert not flow.waiting, f"{len(flow.waiting)} of {flow.name!r} still wait"
        self._all.forget(flow)
        self._light.forget(flow)

    def check(self, flows: Collection[Flow[Item]]) -> None:
        """Assert that nobody waits for a turn that never comes; flows: all there are."""
        assert self._num_waiting == sum(len(flow.waiting) for flow in flows)
        waiting = {flow for flow in flows if flow.waiting}
        assert waiting <= self._all.members <= set(flows)
        assert {flow for flow in waiting if flow.light} <= self._light.members <= set(flows)

    def _add(self, flow: Flow[Item]) -> None:
        self._all.add(flow)
        if flow.light:
            self._light.add(flow)
