"""How fast the engine serves a trace: one pass, as the clock outside the engine sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from jaxpaged.bench.circumstances import circumstances, percentile_ms
from jaxpaged.bench.trace import TraceRequest
from jaxpaged.metrics import EngineMetrics
from jaxpaged.outputs import OutputKind
from jaxpaged.request import RequestOutput, SamplingParams

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine


class TraceServer(Protocol):
    """What serves a trace: `LLMEngine`, or what stands in for it."""

    @property
    def metrics(self) -> EngineMetrics: ...
    @property
    def has_unfinished(self) -> bool: ...
    def check(self, prompt: Sequence[int], params: SamplingParams | None = None) -> object: ...
    def submit(
        self, prompt: Sequence[int], params: SamplingParams | None = None, *, output_kind: OutputKind
    ) -> str: ...
    def step(self) -> list[RequestOutput]: ...


@dataclass(slots=True, kw_only=True)
class Record:
    """One request as a client sees it. Seconds on one clock; it was to arrive at `due_s`, whenever it was taken."""

    due_s: float
    num_prompt: int
    num_wanted: int
    num_output: int = 0
    first_s: float | None = None
    last_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    error: str | None = None

    def add(self, num_tokens: int, now_s: float) -> None:
        if num_tokens:
            if self.last_s is not None:
                self.gaps_s.append(now_s - self.last_s)
            self.first_s = now_s if self.first_s is None else self.first_s
            self.last_s = now_s
            self.num_output += num_tokens


def measure(
    engine: LLMEngine,
    trace: Sequence[TraceRequest],
    *,
    startup_s: float,
    progress: Mapping[str, Any],
    max_concurrency: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Serve the trace greedily, every request to its full length, and return the figures as one flat row.

    See `serve`; with the circumstances of the run.
    """
    figures = serve(engine, trace, progress=progress, max_concurrency=max_concurrency, clock=clock, sleep=sleep)
    return {"engine": "jaxpaged", **figures, **circumstances(engine, startup_s=startup_s)}


def serve(
    engine: TraceServer,
    trace: Sequence[TraceRequest],
    *,
    progress: Mapping[str, Any],
    max_concurrency: int | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> dict[str, Any]:
    """The figures of a trace served greedily, every request to its full length.

    With max_concurrency no more requests are with the engine at once; a request's waiting begins when it is let in.
    itl: the times between two readings of a request's tokens.
    Raises RequestError where a request of the trace cannot be served; nothing is measured then.
    """
    for request in trace:
        engine.check(request.prompt_ids, _params(request))
    before = _copy(engine.metrics)
    began_s = clock()
    records = _serve(engine, trace, most=max_concurrency, began_s=began_s, progress=progress, clock=clock, sleep=sleep)
    total_s = clock() - began_s
    online = any(request.arrival_s for request in trace)
    return {
        "mode": "online" if online else "offline",
        "max_concurrency": max_concurrency,
        **_latencies(records, total_s),
        **_counters(engine.metrics, before),
    }


def _serve(
    engine: TraceServer,
    trace: Sequence[TraceRequest],
    *,
    most: int | None,
    began_s: float,
    progress: Mapping[str, Any],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> list[Record]:
    records: dict[str, Record] = {}
    coming = list(reversed(trace))
    live = 0
    with tqdm(total=len(trace), unit="request", **progress) as bar:
        while coming or engine.has_unfinished:
            now_s = clock() - began_s
            while coming and coming[-1].arrival_s <= now_s and (most is None or live < most):
                request = coming.pop()
                request_id = engine.submit(request.prompt_ids, _params(request), output_kind=OutputKind.DELTA)
                live += 1
                records[request_id] = Record(
                    due_s=began_s + (request.arrival_s if most is None else now_s),
                    num_prompt=len(request.prompt_ids),
                    num_wanted=request.max_tokens,
                )
            if not engine.has_unfinished:
                sleep(max(0.0, coming[-1].arrival_s - (clock() - began_s)))
                continue
            outputs = engine.step()
            now_s = clock()
            for output in outputs:
                record = records[output.request_id]
                record.add(len(output.outputs[0].token_ids), now_s)
                record.error = output.error
                live -= int(output.finished)
                bar.update(int(output.finished))
    return list(records.values())


def _params(request: TraceRequest) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=request.max_tokens, ignore_eos=True)


def _latencies(records: Sequence[Record], total_s: float) -> dict[str, Any]:
    served = [(r, r.first_s, r.last_s) for r in records if r.first_s is not None and r.last_s is not None]
    ttft = [first - r.due_s for r, first, _ in served]
    tpot = [(last - first) / (r.num_output - 1) for r, first, last in served if r.num_output > 1]
    itl = [gap for r in records for gap in r.gaps_s]
    num_input, num_output = sum(r.num_prompt for r in records), sum(r.num_output for r in records)
    return {
        "requests": len(records),
        "finished": sum(r.num_output == r.num_wanted for r in records),
        "short": sum(r.num_output != r.num_wanted for r in records),
        "errors": sum(r.error is not None for r in records),
        "in_tokens": num_input,
        "out_tokens": num_output,
        "total_s": round(total_s, 3),
        "out_tok_s": round(num_output / max(total_s, 1e-9), 2),
        "total_tok_s": round((num_input + num_output) / max(total_s, 1e-9), 2),
        "ttft_p50_ms": percentile_ms(ttft, 50),
        "ttft_p99_ms": percentile_ms(ttft, 99),
        "tpot_p50_ms": percentile_ms(tpot, 50),
        "tpot_p99_ms": percentile_ms(tpot, 99),
        "itl_p50_ms": percentile_ms(itl, 50),
        "itl_p99_ms": percentile_ms(itl, 99),
        "e2e_p50_ms": percentile_ms([last - r.due_s for r, _, last in served], 50),
    }


def _counters(metrics: EngineMetrics, before: EngineMetrics) -> dict[str, Any]:
    """What the engine counted during the pass, by its own books."""
    spent = EngineMetrics(**{f.name: getattr(metrics, f.name) - getattr(before, f.name) for f in fields(EngineMetrics)})
    return {
        "steps": spent.steps,
        "preemptions": spent.preemptions,
        "cached_tokens": spent.cached_tokens,
        "draft_tokens": spent.draft_tokens,
        "accepted_tokens": spent.accepted_tokens,
        "padding_share": round(spent.padding_share, 4),
        "kv_waste": round(spent.kv_waste, 4),
        "kv_waste_contiguous": round(spent.contiguous_waste, 4),
        "kv_waste_cut": round(spent.waste_cut, 4),
        "kv_slots": spent.mean_slots(),
        "compiles_at_start": metrics.compiles_at_start,
        "compiles_after_ready": metrics.compiles_after_ready,
        **{
            f"{name}_ms_per_step": round(getattr(spent, f"{name}_s") * 1000 / max(1, spent.steps), 3)
            for name in ("plan", "pack", "execute", "wait", "commit")
        },
    }


def _copy(metrics: EngineMetrics) -> EngineMetrics:
    return EngineMetrics(**{f.name: getattr(metrics, f.name) for f in fields(EngineMetrics)})
