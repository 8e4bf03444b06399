"""An engine without a device: the real scheduler, buckets and block pool, steps that take what a formula says. [no jax]

The loop is the engine's: with `async_scheduling` a step is launched before the results of the one before it are waited
for, so the host's time shows only where it is longer than the device's. Steps run on the device one after the other.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from jaxpaged.assembly import make_buckets, make_scheduler
from jaxpaged.bench.step_cost import StepCost, StepTime
from jaxpaged.config import ResolvedConfig
from jaxpaged.metrics import EngineMetrics
from jaxpaged.models.config import ModelConfig
from jaxpaged.outputs import OutputKind
from jaxpaged.plan import StepPlan
from jaxpaged.prompt import check_prompt
from jaxpaged.request import CompletionOutput, Request, RequestOutput, SamplingParams

_TOKEN = 0  # what every row draws: prompts that differ stay different, so it makes no prefix that is met again
_TICK_S = 1e-9


class SimulatedClock:
    """Seconds that pass when something is waited for."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += max(seconds, _TICK_S)  # never for nothing: who waits for a time may miss it by a rounding

    def wait_until(self, time_s: float) -> None:
        self.now_s = max(self.now_s, time_s)


class SimulatedEngine:
    """The face of `LLMEngine` that serves a trace. What a request draws is no text, and no request ends early."""

    def __init__(self, config: ResolvedConfig, model: ModelConfig, cost: StepCost, clock: SimulatedClock) -> None:
        self.config = config
        self.metrics = EngineMetrics()
        self.bounds: Counter[str] = Counter()
        """Steps by what bounds them."""
        self.device_s = 0.0
        """Seconds in which the device was busy."""
        self.buckets = make_buckets(config)
        plain = replace(config, speculation=None)  # how often guesses come true, only a text tells
        self.scheduler = make_scheduler(plain, model.kv_windows(), self.buckets, clock=clock)
        self._cost = cost
        self._clock = clock
        self._vocab = model.vocab
        self._in_flight: deque[tuple[StepPlan, StepTime, float]] = deque()  # and when it ends; oldest first
        self._device_free_s = 0.0
        self._numbers = itertools.count()

    @property
    def has_unfinished(self) -> bool:
        return self.scheduler.has_work

    def check(self, prompt: Sequence[int], params: SamplingParams | None = None) -> None:
        """Raise what the engine would for a prompt's content."""
        del params
        check_prompt(tuple(prompt), prompt, vocab=self._vocab, max_model_len=self.config.max_model_len)

    def submit(self, prompt: Sequence[int], params: SamplingParams | None = None, *, output_kind: OutputKind) -> str:
        """Queue a prompt. Raises ContextLengthError and CapacityError as the engine does."""
        del output_kind
        params = params or SamplingParams()
        room = self.config.max_model_len - len(prompt)
        number = next(self._numbers)
        request = Request(
            id=f"request-{number}",
            prompt=tuple(prompt),
            params=params,
            seed=number,
            max_tokens=min(params.max_tokens or room, room),
            arrival_s=self._clock(),
        )
        self.scheduler.submit(request)
        return request.id

    def step(self) -> list[RequestOutput]:
        """Launch a step and take in the results of the one before it, or its own: as `LLMEngine.step_tokens` does."""
        launched = self._launch()
        keep = 1 if launched and self.config.async_scheduling else 0
        return self._commit() if len(self._in_flight) > keep else []

    def _launch(self) -> bool:
        plan = self.scheduler.plan()
        if plan is None:
            return False
        time = self._cost(plan)
        self._clock.wait_until(self._clock() + time.launch_s)
        self.scheduler.launch(plan)
        self._device_free_s = max(self._device_free_s, self._clock()) + time.device_s
        self.device_s += time.device_s
        self.bounds[time.bound] += 1
        self._in_flight.append((plan, time, self._device_free_s))
        return True

    def _commit(self) -> list[RequestOutput]:
        plan, time, ends_s = self._in_flight.popleft()
        self._clock.wait_until(ends_s)
        events = self.scheduler.commit(plan, [_TOKEN] * len(plan.rows))
        self._clock.wait_until(self._clock() + time.commit_s)
        metrics = self.metrics
        metrics.steps += 1
        metrics.step_rows += len(plan.rows)
        metrics.step_tokens += plan.num_tokens
        metrics.padded_tokens += plan.bucket.tokens - plan.num_tokens
        metrics.output_tokens += len(events)
        metrics.add_ledger(self.scheduler.ledger())
        metrics.add_totals(self.scheduler)
        return [
            RequestOutput(
                request_id=event.request_id,
                prompt=None,
                prompt_token_ids=(),
                outputs=(CompletionOutput(index=0, text="", token_ids=(_TOKEN,)),),
                finished=event.finish is not None,
            )
            for event in events
        ]
