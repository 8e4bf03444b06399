"""One prompt's way to its answer: a place from admission, tokens from the engine, text by its `Completion`.

Whoever reads an answer pulls it; leaving early, for whatever reason, gives the place and the blocks back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from jaxpaged.answers import mean_logprob
from jaxpaged.errors import ContextLengthError, GrammarError, ParameterError, RequestError
from jaxpaged.events import NO_TOKEN
from jaxpaged.mask_filler import UNKEPT
from jaxpaged.outputs import Completion, OutputKind
from jaxpaged.prompt import check_params, check_prompt, context_limit
from jaxpaged.request import (
    CompletionOutput,
    FinishReason,
    Logprob,
    Request,
    SamplingParams,
    TokenEvent,
)
from jaxpaged_server.access.keys import Key
from jaxpaged_server.admission.ticket import Ticket
from jaxpaged_server.api.common import MAX_ANSWER_SCORES, MAX_LOGPROBS, MAX_PROMPT_SCORES
from jaxpaged_server.engine_process.wire import EngineInfo, Item, Pairs
from jaxpaged_server.flights import Flight
from jaxpaged_server.forks import Forks
from jaxpaged_server.meter import Meter
from jaxpaged_server.metrics.request_figures import RequestFigures
from jaxpaged_server.refusals import FailedError
from jaxpaged_server.services import Services
from jaxpaged_server.traces import TracedRequest

_GATHERED = 32
"""Tokens at a time of an answer that is told at its end: waking its handler for each would cost several times more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids, and the text they came from where there was one."""

    ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one HTTP request asks of the engine. deadline: on the monotonic clock. n: answers to each prompt, of which
    the `told` best are told; None: all. length_penalty: they are what a search with as many beams finds.

    flight, headers: of the HTTP request; model: the name it was asked for by. asked_tokens: of an answer, by the
    request itself: they must fit, where a default of the server's is cut to what fits.
    stream_interval: tokens that a stream gathers after its first one. alternatives: log probabilities that are told
    beside each token of an answer, None where none are. shown: special tokens that are part of the
    text.
    """

    flight: Flight
    headers: Mapping[str, str]
    model: str
    key: Key
    prompts: tuple[Prompt, ...]
    params: SamplingParams
    asked_tokens: int | None
    n: int
    kind: OutputKind
    told: int | None = None
    length_penalty: float | None = None
    salt: str
    deadline: float
    stream_interval: int
    alternatives: int | None
    shown: frozenset[int] = frozenset()

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each counted once."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def count_name(self) -> str:
        """The field that says how many answers to each prompt are computed."""
        return "n" if self.told is None else "best_of"

    @property
    def prompt_scores(self) -> int:
        """Log probabilities of prompt tokens that it asks for, the alternatives' among them."""
        alternatives = self.params.prompt_logprobs
        return 0 if alternatives is None else self.prompt_tokens * self.n * (1 + alternatives)


def check_job(job: Job, info: EngineInfo) -> None:
    """Raise what the engine would raise for these prompts and parameters, before anything waits for them.

    Raises ParameterError, PromptError and ContextLengthError; an answer of a stated length must fit as well.
    """
    asked, vocab, longest = job.asked_tokens, info.vocab, info.max_model_len
    if len(job.prompts) * job.n > info.max_num_seqs:
        raise ParameterError(
            name=f"prompts x {job.count_name}",
            value=len(job.prompts) * job.n,
            limit=f"the server computes max_num_seqs={info.max_num_seqs} answers at a time",
            fix="Send several requests",
        )
    if job.prompt_scores > MAX_PROMPT_SCORES:
        raise ParameterError(
            name=f"prompt tokens x {job.count_name} x (1 + alternatives)",
            value=job.prompt_scores,
            limit=f"a reply holds at most {MAX_PROMPT_SCORES} log probabilities of its prompts",
            fix="Ask for fewer alternatives, or send several requests",
        )
    check_params(job.params, vocab=vocab, max_logprobs=info.max_logprobs)
    for prompt in job.prompts:
        shown = list(prompt.ids) if prompt.text is None else prompt.text
        check_prompt(prompt.ids, shown, vocab=vocab, max_model_len=longest)
        if asked is not None and len(prompt.ids) + asked > longest:
            raise ContextLengthError(
                name="prompt length + max_tokens",
                value=f"{len(prompt.ids)} + {asked}",
                limit=context_limit(longest),
                fix=f"Ask for at most {longest - len(prompt.ids)} tokens, or send a shorter prompt",
            )
    _check_answer_scores(job, info)


def _check_answer_scores(job: Job, info: EngineInfo) -> None:
    """Raise ParameterError for more log probabilities of answers than a reply may hold: the whole vocabulary of a few
    tokens is millions."""
    alternatives = job.alternatives or 0
    if alternatives <= MAX_LOGPROBS:
        return
    asked = info.max_model_len if job.params.max_tokens is None else job.params.max_tokens
    tokens = sum(min(asked, info.max_model_len - len(prompt.ids)) for prompt in job.prompts) * job.n
    if tokens * (1 + alternatives) > MAX_ANSWER_SCORES:
        raise ParameterError(
            name="tokens of the answers x (1 + alternatives)",
            value=tokens * (1 + alternatives),
            limit=f"a reply holds at most {MAX_ANSWER_SCORES} log probabilities of its answers",
            fix="Ask for fewer tokens or alternatives, or name tokens in logprob_token_ids",
        )


class Answer:
    """One answer to one prompt. `index` is its place among the request's choices."""

    def __init__(
        self, services: Services, job: Job, info: EngineInfo, index: int, ticket: Ticket, forks: Forks
    ) -> None:
        self.index = index
        self._ticket = ticket
        self._forks = forks
        # the beams of a search go in together or not at all: they have one ticket, which the first one waits with
        self._awaits_turn = job.length_penalty is None or index % job.n == 0
        self.prompt = job.prompts[index // job.n]
        self._services = services
        self._job = job
        params = job.params
        if params.seed is not None and index % job.n:
            params = params.with_seed(params.seed + index % job.n)  # equal answers are of no use
        self._params = params
        longest = info.max_model_len - len(self.prompt.ids)
        eos = () if params.ignore_eos else services.text.tokenizer.eos_ids
        self.request = Request(
            id=str(index),
            prompt=self.prompt.ids,
            params=params,
            seed=0,  # the engine draws
            max_tokens=longest if params.max_tokens is None else min(params.max_tokens, longest),
            stop_ids=frozenset(params.stop_ids) | frozenset(eos),
            arrival_s=time.monotonic(),
        )
        self.completion = Completion(
            self.request,
            services.text.tokenizer,
            prompt=self.prompt.text,
            kind=job.kind,
            clock=time.monotonic,
            shown=job.shown,
        )
        self.num_tokens = 0
        self.prompt_logprobs: Sequence[Pairs | None] | None = None
        """Where asked for, once the first token is there. They stay as they came: a long prompt's are worth a thread,
        which whoever tells them has."""
        self._told = 0

    async def outputs(self) -> AsyncGenerator[CompletionOutput, None]:
        """What there is to tell, as the job's output kind says; the last one has a finish reason.

        Raises what admission and the engine raise, FailedError where the model's output was no number, GrammarError
        where its form took too much work.
        """
        completion, request, ticket = self.completion, self.request, self._ticket
        meter = self._meter()
        try:
            if self._awaits_turn:
                await ticket.turn()
            meter.admitted()
            stream = await self._forks.submit(self._params)
            try:
                while not completion.finished:
                    items = await stream.next(self._wanted())
                    count = self._take(items)
                    ticket.charge(count)
                    meter.tokens(stream.times[:count], queue_s=items[0].queue_s)
                    if completion.finish is FinishReason.ERROR:
                        raise _failure(items[-1].error)
                    if completion.finished and items[-1].finish is None:  # its text has met a stop string
                        stream.finish()
                    if completion.finished or self._is_due():
                        yield completion.said()
            finally:
                stream.close()
        finally:
            ticket.release()
            self._trace(meter.end(completion.finish, cached_tokens=request.num_cached))

    def _wanted(self) -> int:
        """Tokens to wait for: the first one alone, and each one where it may end the text."""
        if not self.num_tokens or self._params.stop_strings:
            return 1
        return self._job.stream_interval if self._job.kind is OutputKind.DELTA else _GATHERED

    def _is_due(self) -> bool:
        """Whether a stream is told now: of its first token at once, then of so many at a time."""
        interval = self._job.stream_interval
        if self._job.kind is not OutputKind.DELTA or 0 < self._told > self.num_tokens - interval:
            return False
        self._told = self.num_tokens
        return True

    def _meter(self) -> Meter:
        job, request = self._job, self.request
        return Meter(
            self._services.metrics,
            model=job.model,
            key=job.key.name,
            prompt_tokens=len(request.prompt),
            max_tokens=request.max_tokens,
            n=None if self.index % job.n else job.told or job.n,
        )

    def _trace(self, figures: RequestFigures) -> None:
        if (traces := self._services.traces) is None:
            return
        traced = TracedRequest(
            request_id=self._job.flight.request_id,
            started_ns=time.time_ns() - int(figures.e2e_s * 1e9),
            temperature=self._params.temperature,
            top_p=self._params.top_p,
        )
        traces.on_request(figures, traced, self._job.headers)

    def _take(self, items: Sequence[Item]) -> int:
        """Put items into the text; those after its end are dropped. Returns how many tokens they were."""
        if not self.num_tokens:
            self.prompt_logprobs = items[0].prompt_logprobs
        count = 0
        for item in items:
            if item.num_cached:
                self.request.num_cached = item.num_cached
            count += item.token is not None
            self.completion.push(_event(item, self.request.id))
            if self.completion.finished:
                break
        self.num_tokens += count
        return count


async def outputs_of(answers: Sequence[Answer]) -> AsyncGenerator[tuple[Answer, CompletionOutput], None]:
    """The outputs of several answers as they come. The first failure ends all of them."""
    if len(answers) == 1:  # no task between the engine and the reader
        async with aclosing(answers[0].outputs()) as outputs:
            async for output in outputs:
                yield answers[0], output
        return
    # no longer than one output each: what comes meanwhile gathers in the streams and is one output, as with one answer
    queue: asyncio.Queue[tuple[Answer, CompletionOutput] | BaseException] = asyncio.Queue(len(answers))
    tasks = [asyncio.create_task(_pump(answer, queue)) for answer in answers]
    try:
        left = len(answers)
        while left:
            got = await queue.get()
            if isinstance(got, BaseException):
                raise got
            left -= got[1].finish_reason is not None
            yield got
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(answer: Answer, queue: asyncio.Queue[tuple[Answer, CompletionOutput] | BaseException]) -> None:
    try:
        async with aclosing(answer.outputs()) as outputs:
            async for output in outputs:
                await queue.put((answer, output))
    except Exception as error:
        await queue.put(error)


async def gather(answers: Sequence[Answer], job: Job) -> list[tuple[Answer, CompletionOutput]]:
    """The last output of each answer, in their order; where fewer are told than are computed, of each prompt's best, by
    their log probability per token."""
    last: dict[int, CompletionOutput] = {}
    async with aclosing(outputs_of(answers)) as outputs:
        async for answer, output in outputs:
            last[answer.index] = output
    done = [(answer, last[answer.index]) for answer in answers]
    if job.told is None:
        return done
    told: list[tuple[Answer, CompletionOutput]] = []
    for first in range(0, len(done), job.n):
        best = sorted(done[first : first + job.n], key=lambda pair: mean_logprob(pair[1]), reverse=True)
        told += best[: job.told]
    return told


@contextmanager
def answering(services: Services, job: Job) -> Iterator[list[Answer]]:
    """The answers that a job asks for, lined up and not begun; their places are given back at the end.

    Raises what `check_job` raises, NotReadyError, RateLimitedError and QueueFullError.
    """
    info = services.info()
    check_job(job, info)
    each, rows = (job.n, 1) if job.length_penalty is None else (1, job.n)  # tickets for a prompt, and rows of one
    lengths = [len(prompt.ids) for prompt in job.prompts for _ in range(each)]
    tickets = services.admission.line_up(job.key, prompt_tokens=lengths, rows=rows, deadline_s=job.deadline)
    answers: list[Answer] = []
    try:
        for i, prompt in enumerate(job.prompts):
            forks = Forks(services.engine, prompt.ids, job.salt, count=job.n, length_penalty=job.length_penalty)
            mine = range(i * job.n, (i + 1) * job.n)
            answers += [Answer(services, job, info, j, tickets[j * each // job.n], forks) for j in mine]
        yield answers
    finally:
        for ticket in tickets:
            ticket.release()
        job.flight.prompt_tokens = job.prompt_tokens
        job.flight.completion_tokens = sum(answer.num_tokens for answer in answers)


def _failure(error: str | None) -> RequestError | FailedError:
    """What became of a request that the engine has ended: its own fault, or not."""
    said = error or "the engine could not go on with it"
    if said.startswith(UNKEPT):
        fix = "Ask for a simpler form"
        return GrammarError(name="structured_outputs", value="the answer so far", limit=said, fix=fix)
    if said.startswith(NO_TOKEN):
        names = "allowed_token_ids, bad_words and the form of the answer"
        return ParameterError(name=names, value="together", limit=said, fix="Allow more tokens")
    return FailedError(name="request", value="ended", limit=said)


def _event(item: Item, request_id: str) -> TokenEvent:
    if item.finish is item.logprobs is None:
        return TokenEvent(request_id, item.token)  # nearly all
    return TokenEvent(
        request_id,
        item.token,
        None if item.finish is None else FinishReason(item.finish),
        item.stop_reason,
        None if item.logprobs is None else _logprobs(item.logprobs),
        item.error,
    )


def _logprobs(pairs: Pairs) -> dict[int, Logprob]:
    return {token: Logprob(logprob=value, rank=rank) for token, (value, rank) in pairs.items()}


__all__ = ["Answer", "Job", "Prompt", "answering", "check_job", "gather", "outputs_of"]
