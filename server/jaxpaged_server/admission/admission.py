"""The door in front of the engine: who waits, who goes in, who is turned away. [no jax]

A request here is one of the engine's: an HTTP request is as many as it has prompts times choices. The beams of a search
are one request that takes as many rows.

The engine's own queue is first come, first served, so it is kept short: `Gate` says who may go in, `FairQueue` whose
turn it is. The queue here is bounded in requests and in prompt tokens, and a key's part of it by what is left, so that
a flood finds it full and others do not (`Room`). A key with nothing in the queue may put in one HTTP request whatever
its tokens: a long one would never get in otherwise. So the tokens that wait are at most the bound and one HTTP request
a key.

`line_up`, `release`, `charge` and the rest are plain calls that never wait; only `Ticket.turn` is for asyncio. For one
thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from jaxpaged.errors import JaxPagedError, ParameterError
from jaxpaged_server.access.keys import ANONYMOUS, Key
from jaxpaged_server.admission.account import Account
from jaxpaged_server.admission.drain_rate import DrainRate
from jaxpaged_server.admission.fair_queue import Entry, FairQueue
from jaxpaged_server.admission.gate import Gate, Load
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.admission.pace import LastSeen
from jaxpaged_server.admission.room import Room
from jaxpaged_server.admission.ticket import Ticket, TicketState
from jaxpaged_server.refusals import DeadlineError, NotReadyError, RefusalError

REASONS = (
    *("not_ready", "queue_full", "queue_tokens", "concurrency", "requests_per_minute", "tokens_per_minute"),
    *("deadline", "aborted"),
)
"""Why requests were turned away, for metrics: one count an HTTP request for all but the last two."""
_NEEDED_S = 2.0
"""A key whose last request was taken no longer ago may send another one any time."""


class Admission:
    """Starts closed; `ready` opens it."""

    def __init__(self, keys: Iterable[Key] = (ANONYMOUS,), *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.rejections = dict.fromkeys(REASONS, 0)
        self._gate: Gate | None = None  # until the engine was ready once
        self._accounts: dict[str, Account] = {}
        self._configured: frozenset[str] = frozenset()
        self._queue: FairQueue[Ticket] = FairQueue()
        self._waiting_tokens = 0
        self._drain_rate = DrainRate(requests_per_s=0.0, tokens_per_s=0.0)
        self._closed: tuple[str, int | None] | None = ("starting", 5)  # why, and for how many seconds
        self._paused = True
        self._until_resume = False
        self._draining = False
        self._load = Load()
        self._last_seen = LastSeen()
        self.use_keys(keys)

    # What is asked of it.

    def check_room(self, key: Key) -> None:
        """Raise NotReadyError or QueueFullError for a request that could not be taken whatever it holds: before anybody
        reads it."""
        if self._closed is not None:
            raise self._refuse("not_ready", _not_ready(*self._closed))
        account, gate = self._accounts.get(key.name), self._gate
        if account is None or gate is None or not account.flow.waiting:
            return
        if refusal := self._room(gate).refusal(account, (1,), self.clock()):
            raise self._refuse(*refusal)

    def line_up(
        self, key: Key, *, prompt_tokens: Sequence[int], rows: int = 1, deadline_s: float | None = None
    ) -> list[Ticket]:
        """Take all requests of an HTTP request, or none; those whose turn it is are inside at once.

        prompt_tokens: one number a request. rows: of the engine, that each takes. deadline_s: on `clock`; counts for
        those that still wait. Each ticket is the caller's to release, and `turn` to be awaited: one that nobody awaits
        may outstay its deadline.
        Raises NotReadyError, DeadlineError, RateLimitedError, QueueFullError, ParameterError for more than the engine
        has rows; nothing has changed then but a count.
        """
        now = self.clock()
        if self._closed is not None:
            raise self._refuse("not_ready", _not_ready(*self._closed))
        gate = self._gate
        assert gate is not None
        config = gate.config
        count = len(prompt_tokens) * rows
        if not 0 < count <= config.max_num_seqs:
            limit = f"1 to {config.max_num_seqs} may go together"
            raise ParameterError(name="prompts times n", value=count, limit=limit)
        assert min(prompt_tokens) >= 0, f"prompts of {prompt_tokens} tokens"
        if deadline_s is not None and deadline_s <= now:
            raise self._refuse("deadline", _too_late(0.0))
        account = self._accounts.get(key.name) or Account.open(key, now=now)
        tokens = sum(prompt_tokens)
        if refusal := account.rates.refusal(key.name, count, tokens, now):
            raise self._refuse(*refusal)
        direct = 0
        if not account.flow.waiting:
            others_wait = len(self._queue) > 0
            direct = gate.count_direct(account.load, self._load, prompt_tokens, rows=rows, others_wait=others_wait)
        queued = prompt_tokens[direct:]
        if queued and (refusal := self._room(gate).refusal(account, queued, now)):
            raise self._refuse(*refusal)
        account.rates.take(count, tokens, now)
        self._accounts[key.name] = account
        self._last_seen.note(key.name, now)
        tickets = [
            Ticket(admission=self, account=account, prompt_tokens=length, rows=rows, came_s=now, deadline_s=deadline_s)
            for length in prompt_tokens
        ]
        for ticket in tickets:
            ticket.entry = self._queue.push(account.flow, ticket, ticket.prompt_tokens)
        account.waiting_tokens += tokens
        self._waiting_tokens += tokens
        self._pump()
        return tickets

    def hold_s(self, key: Key) -> float:
        """How long to hold a refusal of this key back, in seconds; to be asked once for each. See `pace.py`."""
        account, now = self._accounts.get(key.name), self.clock()
        if account is None or now - self._last_seen.other_than(key.name) > _NEEDED_S:
            return 0.0
        return account.pace.delay_s(now)

    def charge(self, ticket: Ticket, output_tokens: int) -> None:
        """See `Ticket.charge`. After the release it does nothing: a step may have been on its way."""
        if ticket.state is not TicketState.INSIDE or output_tokens == 0:
            assert ticket.state is not TicketState.WAITING, "an answer comes to a request that waits"
            return
        account = ticket.account
        self._queue.charge(account.flow, output_tokens)
        account.rates.charge(output_tokens, self.clock())
        if not ticket.started:
            self._count_start(ticket)
            self._pump()

    def release(self, ticket: Ticket) -> None:
        """See `Ticket.release`: the one way out for every request."""
        if ticket.state is not TicketState.OUT:
            self._leave(ticket)
            self._pump()

    def expire(self, ticket: Ticket) -> None:
        """Turn a request away that still waits: its time is up."""
        if ticket.state is TicketState.WAITING:
            self._turn_away(ticket, "deadline", _too_late(self.clock() - ticket.came_s))
            self._pump()

    # What the rest of the server says to it.

    def ready(self, config: AdmissionConfig) -> None:
        """The engine is there, with these sizes: open, or open again unless `pause` said otherwise."""
        if self._gate is None or config != self._gate.config:
            # as if answers took 10 s and the rows were full
            requests_per_s, tokens_per_s = config.max_num_seqs / 10, float(config.max_num_batched_tokens)
            self._drain_rate = DrainRate(requests_per_s=requests_per_s, tokens_per_s=tokens_per_s)
        self._set_gate(config, behind=False)
        if self._until_resume:
            self.pause("paused")
        else:
            self.resume()

    def pause(self, reason: str, *, retry_after_s: int | None = None, until_resume: bool = False) -> None:
        """Refuse new requests and let none in; those that wait go on waiting, those inside are left alone.

        until_resume: `ready` does not undo it, as where an operator paused and the engine is then started again.
        """
        self._paused = True
        self._until_resume |= until_resume
        self._note_queue(self.clock())
        if not self._draining:
            self._closed = (reason, retry_after_s)

    def resume(self) -> None:
        """Undo `pause`; `drain` cannot be undone."""
        assert self._gate is not None, "the engine was never ready"
        self._paused = self._until_resume = False
        if not self._draining:
            self._closed = None
        self._pump()

    def drain(self) -> None:
        """Refuse new requests from now on; those that were taken are served."""
        self._draining = True
        self._closed = ("shutting down", None)

    def abort_all(self, reason: str = "aborting all requests") -> int:
        """Turn away all that wait, with NotReadyError; how many. Those inside are the engine's to end."""
        waiting = [entry.item for account in self._accounts.values() for entry in account.flow.waiting]
        for ticket in waiting:
            self._turn_away(ticket, "aborted", _not_ready(reason, None))
        return len(waiting)

    def observe(self, engine_waiting: int) -> None:
        """Take in how many requests wait in the engine's own queue, some times a second (`wire.Beat`)."""
        if self._gate is not None:
            behind = engine_waiting > self._gate.engine_queue
            if behind != self._gate.behind:
                self._set_gate(self._gate.config, behind=behind)
                self._pump()

    def use_keys(self, keys: Iterable[Key]) -> None:
        """Take on the keys in force; what they have used, and who waits or is inside, stays."""
        now, named = self.clock(), {key.name: key for key in keys}
        self._configured = frozenset(named)
        for name, key in named.items():
            if name in self._accounts:
                self._accounts[name].refit(key, now)
            else:
                self._accounts[name] = Account.open(key, now=now)
        for account in list(self._accounts.values()):
            self._forget_if_done(account)
        if self._gate is not None:
            self._set_gate(self._gate.config, behind=self._gate.behind)
            self._pump()

    # What it tells.

    @property
    def is_open(self) -> bool:
        """Whether new requests are taken."""
        return self._closed is None

    @property
    def num_inside(self) -> int:
        """Rows of the engine that those inside take."""
        return self._load.inside

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def num_waiting_tokens(self) -> int:
        """Prompt tokens of those that wait."""
        return self._waiting_tokens

    @property
    def max_waiting_tokens(self) -> int:
        """Prompt tokens that may wait now."""
        gate = self._gate
        return 0 if gate is None else gate.config.queue_tokens(self._drain_rate.tokens_per_s(self.clock()))

    def waiting_by_reason(self) -> tuple[int, int]:
        """Requests that wait: for room in the engine; and though there is some, since it is kept for light keys."""
        gate, waiting = self._gate, len(self._queue)
        kept = gate is not None and not self._paused and self._load.inside < gate.places
        return (0, waiting) if kept else (waiting, 0)

    def waiting_by_key(self) -> Mapping[str, int]:
        """Requests that wait, by the name of their key; all configured keys are there."""
        return {name: len(account.flow.waiting) for name, account in self._accounts.items()}

    def check(self) -> None:
        """Assert that all sums are right, and that nobody waits who could go (no wake-up was lost)."""
        accounts, total = self._accounts.values(), self._load
        self._queue.check([account.flow for account in accounts])
        assert total.inside == sum(account.load.inside for account in accounts)
        assert total.unstarted == sum(account.load.unstarted for account in accounts)
        assert total.unstarted_tokens == sum(account.load.unstarted_tokens for account in accounts)
        assert self._waiting_tokens == sum(account.waiting_tokens for account in accounts)
        for name, account in self._accounts.items():
            waiting = [entry.item for entry in account.flow.waiting]
            assert all(ticket.state is TicketState.WAITING for ticket in waiting)
            assert account.waiting_tokens == sum(ticket.prompt_tokens for ticket in waiting)
            assert account.rates.num_in_flight == account.load.inside + sum(ticket.rows for ticket in waiting)
            assert 0 <= account.load.unstarted <= account.load.inside
            assert name in self._configured or not account.is_idle, f"{name!r} is kept for nothing"
        if (gate := self._gate) is not None:
            assert all(account.flow.light == gate.is_light(account.load) for account in accounts)
            if total.inside < gate.places and not self._paused and (entry := self._queue.next()) is not None:
                assert gate.is_tight(total, entry.tokens, entry.item.rows), f"{entry.flow.name!r} waits for nothing"
                assert self._queue.next(light=True) is None, "a light key waits for nothing"

    # How.

    def _set_gate(self, config: AdmissionConfig, *, behind: bool) -> None:
        self._gate = Gate.of(config, shared=len(self._configured) > 1, behind=behind)
        for account in self._accounts.values():
            self._note_load(account)

    def _pump(self) -> None:
        """Let in whose turn it is, as long as they may."""
        queue, gate, total = self._queue, self._gate, self._load
        if not len(queue) or self._paused or gate is None:
            return
        now = self.clock()
        while total.inside < gate.places and (entry := queue.next()) is not None:
            if gate.is_tight(total, entry.tokens, entry.item.rows) and (entry := queue.next(light=True)) is None:
                break
            ticket = entry.item
            if ticket.deadline_s is not None and ticket.deadline_s <= now:
                self._turn_away(ticket, "deadline", _too_late(now - ticket.came_s))
            else:
                self._let_in(ticket, entry, now)
        self._note_queue(now)

    def _let_in(self, ticket: Ticket, entry: Entry[Ticket], now: float) -> None:
        account, tokens = ticket.account, ticket.prompt_tokens
        self._queue.take(entry)
        self._drain_rate.left(tokens, now)
        account.waiting_tokens -= tokens
        self._waiting_tokens -= tokens
        account.load.enter(tokens, ticket.rows)
        self._load.enter(tokens, ticket.rows)
        self._note_load(account)
        ticket.state, ticket.entry, ticket.entered_s = TicketState.INSIDE, None, now
        ticket.wake()

    def _turn_away(self, ticket: Ticket, reason: str, error: JaxPagedError) -> None:
        self.rejections[reason] += 1
        ticket.error = error
        self._leave(ticket)
        ticket.wake()

    def _leave(self, ticket: Ticket) -> None:
        account, now, tokens = ticket.account, self.clock(), ticket.prompt_tokens
        if ticket.state is TicketState.WAITING:
            assert ticket.entry is not None
            self._queue.remove(ticket.entry)
            account.waiting_tokens -= tokens
            self._waiting_tokens -= tokens
            self._note_queue(now)
            account.rates.leave(tokens, now, requests=ticket.rows)
        else:
            assert ticket.state is TicketState.INSIDE
            if not ticket.started:
                self._count_start(ticket)
            account.load.inside -= ticket.rows
            self._load.inside -= ticket.rows
            self._note_load(account)
            account.rates.leave(0, now, requests=ticket.rows)
        ticket.state, ticket.entry = TicketState.OUT, None
        self._forget_if_done(account)

    def _count_start(self, ticket: Ticket) -> None:
        ticket.started = True
        ticket.account.load.start(ticket.prompt_tokens)
        self._load.start(ticket.prompt_tokens)
        self._note_load(ticket.account)

    def _note_load(self, account: Account) -> None:
        if self._gate is not None:
            self._queue.set_light(account.flow, self._gate.is_light(account.load))

    def _note_queue(self, now: float) -> None:
        if len(self._queue) and not self._paused:
            self._drain_rate.start(now)
        else:
            self._drain_rate.stop(now)

    def _forget_if_done(self, account: Account) -> None:
        if account.is_idle and account.key.name not in self._configured:
            self._accounts.pop(account.key.name, None)
            self._queue.forget(account.flow)

    def _room(self, gate: Gate) -> Room:
        return Room(
            config=gate.config,
            drain_rate=self._drain_rate,
            num_waiting=len(self._queue),
            waiting_tokens=self._waiting_tokens,
            shared=gate.shared,
        )

    def _refuse(self, reason: str, error: RefusalError) -> RefusalError:
        self.rejections[reason] += 1
        return error


def _not_ready(reason: str, retry_after_s: int | None) -> NotReadyError:
    fix = "Try again later" if retry_after_s is None else f"Try again in {retry_after_s} s"
    limit = "new requests are not taken now"
    return NotReadyError(name="server", value=reason, limit=limit, fix=fix, retry_after_s=retry_after_s)


def _too_late(waited_s: float) -> DeadlineError:
    return DeadlineError(
        name="seconds waited",
        value=round(waited_s, 3),
        limit="the request's time ran out before its turn came",
        fix="Give it a longer timeout, or try when the server is less busy",
    )
