"""The answers to one prompt: as many requests, which share its KV, and one `RequestOutput`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxpaged.errors import ParameterError
from jaxpaged.outputs import Completion, OutputKind
from jaxpaged.request import CompletionOutput, RequestMetrics, RequestOutput, SamplingParams, TokenEvent


def params_of_answers(params: SamplingParams) -> list[SamplingParams]:
    """The parameters of each answer that is computed: the i-th draws as a request with the seed + i would."""
    count = params.best_of or params.n
    if count == 1:
        return [params]
    # the best are found by them
    logprobs = 0 if count > params.n and not params.wants_logprobs else params.logprobs
    alone = replace(params, n=1, best_of=None, logprobs=logprobs)
    if params.seed is None:
        return [alone] * count
    return [alone if i == 0 else replace(alone, seed=(params.seed + i) & 0xFFFFFFFF) for i in range(count)]


def check_output_kind(params: SamplingParams, kind: OutputKind, *, searches: bool = False) -> None:
    """Raise ParameterError for a choice of the best that would be told before the end; searches: by beam search."""
    if kind is OutputKind.FINAL_ONLY:
        return
    if searches:
        limit = "what a beam search finds is known at the end, and outputs are asked for before"
        raise ParameterError(name="output_kind", value=kind.value, limit=limit, fix="Take OutputKind.FINAL_ONLY")
    if (params.best_of or params.n) > params.n:
        raise ParameterError(
            name="best_of",
            value=params.best_of,
            limit=f"which answers are the best n={params.n} is known at the end, and these are told before",
            fix="Take OutputKind.FINAL_ONLY, or best_of = n",
        )


def mean_logprob(said: CompletionOutput) -> float:
    """The log probability per token, by which best_of chooses; below all others for an answer that failed, or that was
    ended because it repeats itself, which makes its tokens likely and no better."""
    if said.cumulative_logprob is None or not said.token_ids or said.finish_reason not in ("stop", "length"):
        return float("-inf")
    return said.cumulative_logprob / len(said.token_ids)


class Answers:
    """The text side of the answers to one prompt. Mutable; belongs to whoever reads the engine's events.

    completions: of each request, in their order, the first one's id being that of them all. params: what was asked for.
    """

    def __init__(self, completions: Sequence[Completion], params: SamplingParams) -> None:
        self.id = completions[0].request.id
        self.ids = tuple(completion.request.id for completion in completions)
        self._completions = completions
        self._params = params
        self._kind = completions[0].kind
        self._places = {name: i for i, name in enumerate(self.ids)}
        self._untold: set[str] = set()  # requests with events since they were told of last

    @property
    def finished(self) -> bool:
        return all(completion.finished for completion in self._completions)

    def has_ended(self, request_id: str) -> bool:
        """Whether the answer of this request has ended, of which there may be tokens on their way."""
        return self._completions[self._places[request_id]].finished

    def push(self, event: TokenEvent) -> bool:
        """Take one event. True when a stop string ended that answer: its request must then be finished below."""
        self._untold.add(event.request_id)
        completion = self._completions[self._places[event.request_id]]
        return not completion.finished and completion.push(event)

    def told_as(self, request_id: str) -> str:
        """The request by which an event of this one is told: the first where the end alone is told, of all at once."""
        return self.id if self._kind is OutputKind.FINAL_ONLY else request_id

    def output(self, request_id: str) -> RequestOutput | None:
        """What there is to tell after events of a request: of its answer alone, or, where the end alone is told, of
        all of them once that has come."""
        if self._kind is OutputKind.FINAL_ONLY:
            return self._last() if self.finished else None
        self._untold.discard(request_id)
        place = self._places[request_id]
        told = self._completions[place].output()
        if len(self.ids) == 1:
            return told
        (said,) = told.outputs
        return replace(
            told, request_id=self.id, outputs=(replace(said, index=place),), finished=self.finished and not self._untold
        )

    def _last(self) -> RequestOutput:
        told = [completion.output() for completion in self._completions]
        if len(told) == 1:
            return told[0]
        said = [one.outputs[0] for one in told]
        params = self._params
        if len(said) > params.n:
            said = sorted(said, key=mean_logprob, reverse=True)[: params.n]  # stable
        if not params.wants_logprobs:
            said = [replace(one, cumulative_logprob=None, logprobs=None) for one in said]
        return replace(
            told[0],
            outputs=tuple(replace(one, index=i) for i, one in enumerate(said)),
            metrics=_of_all([one.metrics for one in told if one.metrics is not None]),
            error=next((one.error for one in told if one.error is not None), None),
        )


def _of_all(metrics: Sequence[RequestMetrics]) -> RequestMetrics:
    """From the first arrival to the last end."""
    return RequestMetrics(
        arrival_s=metrics[0].arrival_s,
        first_token_s=min((one.first_token_s for one in metrics if one.first_token_s is not None), default=None),
        finished_s=max((one.finished_s for one in metrics if one.finished_s is not None), default=None),
        num_preemptions=sum(one.num_preemptions for one in metrics),
    )
