"""One thread's engine: submit, abort, step. The other faces (`LLM`, `AsyncEngine`) are this loop with a door.

Owns an engine's parts and the way from text to token ids and back. Policy is the scheduler's, arithmetic the runner's,
the order of a step that of `steps`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

from jaxpaged.answers import Answers, check_output_kind, params_of_answers
from jaxpaged.assembly import make_buckets, make_scheduler
from jaxpaged.batch import Packer
from jaxpaged.beam_searches import BeamSearches
from jaxpaged.beams import BeamSearchParams, check_beams, check_length_penalty, search_of
from jaxpaged.buckets import BucketTable
from jaxpaged.bundle import read_bundle
from jaxpaged.config import EngineConfig
from jaxpaged.device import Device, claim_share, this_device
from jaxpaged.draft_runner import DraftRunner
from jaxpaged.errors import EngineError, RequestError
from jaxpaged.fingerprint import fingerprint_of_engine
from jaxpaged.intake import Intake
from jaxpaged.inventory import kv_bytes_per_token
from jaxpaged.loaded_draft import LoadedDraft
from jaxpaged.loading import load
from jaxpaged.mask_filler import MaskFiller
from jaxpaged.metrics import EngineMetrics
from jaxpaged.outputs import Completion, OutputKind
from jaxpaged.plan import StepPlan
from jaxpaged.prefix import PrefixListener
from jaxpaged.programs import Programs
from jaxpaged.progress import Progress, progress_of
from jaxpaged.request import FinishReason, Request, RequestOutput, TokenEvent
from jaxpaged.residency import BlockResidency
from jaxpaged.roofline import work_of
from jaxpaged.runner import ModelRunner
from jaxpaged.sampling_defaults import sampling_defaults
from jaxpaged.sampling_params import SamplingParams
from jaxpaged.start_table import start_table
from jaxpaged.steps import Steps
from jaxpaged.submissions import Submissions
from jaxpaged.tokenize import NoTokenizer, Tokenizer
from jaxpaged.unready import Unready
from jaxpaged.warmup import CompileCounter, EarlyStart, warm_up, warm_up_draft
from jaxpaged.weights.load import LoadedModel, read_model_config
from jaxpaged.weights.source import localised


class LLMEngine:
    """A model, its KV pool, and the requests in flight. Not thread-safe: one thread calls it.

    model: taken as it is, so that `config.model` is a name and no folder; without `config.tokenizer` the engine then
    speaks token ids alone. prefix_listener: told of what enters and leaves the prefix cache. residency: told of blocks.
    estimates: count the work of each step in `metrics`, which takes up to 0.2 ms a step. Raises ModelError for a folder
    that cannot be served and ConfigError for options that cannot be.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        model: LoadedModel | None = None,
        progress: Progress | bool = False,
        clock: Callable[[], float] = time.monotonic,
        prefix_listener: PrefixListener | None = None,
        residency: BlockResidency | None = None,
        estimates: bool = False,
    ) -> None:
        began, progress = time.monotonic(), progress_of(progress)
        asked = config or EngineConfig()
        bundle = None if asked.bundle is None else read_bundle(asked.bundle)
        if bundle is not None:
            asked = bundle.apply(asked)
        asked = localised(asked, has_model=model is not None, progress=progress)
        self._clock = clock
        self._make_scheduler = partial(make_scheduler, clock=clock, listener=prefix_listener, residency=residency)
        self._estimates = estimates
        self._compiles = CompileCounter()
        self.metrics = EngineMetrics()
        claim_share(asked.memory_share)
        self.device = this_device()
        model_config = model.config if model else read_model_config(asked.model, context=asked.max_model_len)
        text_from = asked.tokenizer or (None if model else asked.model)
        self.sampling_defaults = sampling_defaults(asked, has_folder=model is None)
        self.sampling_defaults.warn()
        self.default_params = self.sampling_defaults.fill(SamplingParams())
        ends = {"model": None if model else asked.model, "generation_config": asked.generation_folder}
        self.tokenizer = Tokenizer.load(text_from, **ends) if text_from else NoTokenizer()
        texts = self.tokenizer if isinstance(self.tokenizer, Tokenizer) else None
        loaded = load(asked, model, model_config, texts, self.device, bundle=bundle, progress=progress)
        self.device, self.weight_bytes = loaded.device, loaded.weight_bytes
        self._cache_folder, self._dtype_reason = loaded.cache_folder, loaded.dtype_reason
        self._assemble(loaded.programs, loaded.draft)
        resolved = self.config
        self.max_logprobs = asked.max_logprobs
        self._intake = Intake(
            self.config,
            self.tokenizer,
            vocab=model_config.vocab,
            max_logprobs=self.max_logprobs,
            reasoning_config=dict(asked.reasoning_config),
        )
        if resolved.warmup:
            self._intake.grammars.prepare()
        self._early: EarlyStart | None = None
        if resolved.warmup and resolved.early_start:
            of_draft = self.draft.runner if self.draft else None
            self._early = EarlyStart(self.runner, self.buckets, draft=of_draft, progress=progress)
            self._use(self.buckets.base)
        elif resolved.warmup:
            warm_up(self.runner, self.buckets, progress=progress)
            if self.draft is not None:
                warm_up_draft(self.draft.runner, self.buckets, progress=progress)
        self.metrics.compiles_at_start = self._compiles.count
        self.startup_s = time.monotonic() - began

    def _assemble(self, programs: Programs, draft: LoadedDraft | None) -> None:
        model, config = programs.model, programs.config
        self._programs = programs
        self.config = config
        self.model_config = model.config
        self.buckets = make_buckets(config)
        windows = model.config.kv_windows()
        self.runner = ModelRunner(programs)
        self.draft = draft and DraftRunner(draft, self.runner, self.buckets, clock=self._clock)
        self.scheduler = self._make_scheduler(config, windows, self.buckets, draft=self.draft)
        self.ledger = self.scheduler.ledger()
        """Of the pool as the last step left it; any thread may read it."""
        packer = Packer(
            num_seats=config.num_seats,
            table_width=config.table_width,
            groups=range(len(windows)),
            max_model_len=config.max_model_len,
            vocab_size=model.config.vocab,
        )
        masks = MaskFiller(vocab=model.config.vocab)
        self.steps = Steps(self.runner, packer, masks, metrics=self.metrics, clock=self._clock, count=self._count)
        self._searches = BeamSearches()
        self._submissions = Submissions()
        self._unready = Unready(clock=self._clock)
        self._number = 0  # of requests so far

    def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | BeamSearchParams | None = None,
        *,
        request_id: str | None = None,
        output_kind: OutputKind = OutputKind.CUMULATIVE,
        text: str | None = None,
    ) -> str:
        """Queue a prompt (text or token ids); returns the request's id. text: what ids came from, for the outputs.
        With BeamSearchParams the answers are what the search finds.

        Raises PromptError, ContextLengthError, CapacityError or ParameterError, and RequestError for an id in flight;
        the engine and its other requests are not touched then.
        """
        params, length_penalty = search_of(params or self.default_params)
        check_output_kind(params, output_kind, searches=length_penalty is not None)
        if request_id in self._submissions:  # its own answer may have ended, not yet those beside it
            raise RequestError(name="request id", value=request_id, limit="a request with this id is in flight")
        ids = self._intake.ids_of(prompt, params)
        requests = self.enqueue_all(ids, params, request_id=request_id, length_penalty=length_penalty)
        answers = self.answers(requests, params, output_kind, prompt=prompt if isinstance(prompt, str) else text)
        self._submissions.add(answers)
        return answers.id

    def enqueue(
        self, ids: tuple[int, ...], params: SamplingParams, *, request_id: str | None = None, salt: str = ""
    ) -> Request:
        """Queue token ids that `check` returned, for a caller of `step_tokens` who makes text of its events himself:
        for one answer, whatever params.n is.

        salt: a namespace of cached prefixes, which are shared within it alone.
        Raises what `submit` raises, but for the prompt's content.
        """
        return self.enqueue_forks(ids, [params], request_ids=[request_id], salt=salt)[0]

    def enqueue_all(
        self,
        ids: tuple[int, ...],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        salt: str = "",
        length_penalty: float | None = None,
    ) -> list[Request]:
        """The same for all answers that are to be computed (n, best_of). request_id: of the first of them."""
        of_each = params_of_answers(params)
        first = request_id if request_id is not None else self._free_id(self._number)
        names = [first, *(f"{first}/{i}" for i in range(1, len(of_each)))]
        return self.enqueue_forks(ids, of_each, request_ids=names, salt=salt, length_penalty=length_penalty)

    def enqueue_forks(
        self,
        ids: tuple[int, ...],
        params: Sequence[SamplingParams],
        *,
        request_ids: Sequence[str | None],
        salt: str = "",
        length_penalty: float | None = None,
    ) -> list[Request]:
        """Queue requests of one prompt, which is computed once and whose KV they share. See `enqueue`.

        length_penalty: they are the beams of a search, each with the parameters that `BeamSearchParams.sampling` gives;
        what is found is told as their tokens, the best as the first one's, all at the end.
        """
        requests = [self._request(ids, of_one, name, salt) for of_one, name in zip(params, request_ids, strict=True)]
        if length_penalty is not None:
            check_beams(len(requests), vocab=self.model_config.vocab)
            check_length_penalty(length_penalty)
            for request in requests:
                request.held = True
        for name in request_ids:
            if name in self._unready:
                raise RequestError(name="request id", value=name, limit="a request with this id is in flight")
        self.scheduler.vet(requests[0], requests[1:])
        if length_penalty is None and self._unready.add(requests):
            return requests
        self.scheduler.submit(requests[0], requests[1:])
        if length_penalty is not None:
            self._searches.add(requests, length_penalty=length_penalty)
        return requests

    def _request(self, ids: tuple[int, ...], params: SamplingParams, name: str | None, salt: str) -> Request:
        if name is not None and (not isinstance(name, str) or not name):
            raise RequestError(name="request_id", value=name, limit="it must be a string, and not empty")
        number = self._number
        self._number += 1
        name = name if name is not None else self._free_id(number)
        return self._intake.request(name, ids, params, number=number, arrival_s=self._clock(), salt=salt)

    def completion(self, request: Request, kind: OutputKind, *, prompt: str | None) -> Completion:
        """The text side of a request of this engine; any thread may use it. prompt: its text, if known."""
        return Completion(request, self.tokenizer, prompt=prompt, kind=kind, clock=self._clock)

    def answers(
        self, requests: Sequence[Request], params: SamplingParams, kind: OutputKind, *, prompt: str | None
    ) -> Answers:
        """The text side of what `enqueue_all` queued; any thread may use it. prompt: its text, if known."""
        return Answers([self.completion(request, kind, prompt=prompt) for request in requests], params)

    def check(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None, *, vetted: bool = False
    ) -> tuple[int, ...]:
        """The prompt's token ids; raises what `submit` would raise for its content, without queueing it.

        vetted: `structured_outputs` were checked before (`grammar_of`); what is wrong with them all the same ends the
        request with an error.
        """
        return self._intake.ids_of(prompt, params or self.default_params, vetted=vetted)

    def abort(self, request_id: str) -> bool:
        """End a request now, in any state, with all its answers, of which this may be any one's id; their blocks are
        free at return. False if it was not in flight."""
        found = [self._abort(name) for name in self._submissions.leave(request_id)]
        return any(found)

    def _abort(self, name: str) -> bool:
        if self._unready.leave(name, FinishReason.ABORT):
            return True
        found = self._searches.leave(name, self.scheduler)
        return self.scheduler.abort(name) if found is None else found

    def finish(self, request_id: str) -> None:
        """End a request whose text has met a stop string; nothing is done where it is not in flight."""
        reason = FinishReason.STOP
        if self._unready.leave(request_id, reason) or self.scheduler.finish(request_id, reason) is not None:
            self.metrics.finished += 1

    @property
    def has_unfinished(self) -> bool:
        return self.scheduler.has_work or bool(self._unready)

    def step(self) -> list[RequestOutput]:
        """Compute one step; returns the outputs of the requests that moved (as their output kind says), one each. Where
        there are several answers, one before the end holds one of them, with its index."""
        return self._submissions.outputs(self.step_tokens(), finish=self.finish)

    def step_tokens(self) -> list[TokenEvent]:
        """The sentence of the engine: plan, pack, execute, commit.

        With `async_scheduling` a step is on its way before the one before it is committed, so the device does not wait
        for the host; a request that turns out to have ended computes one token more, which is dropped. A step is
        committed first where it verifies guesses, or where the next one is likely to be worth some.
        """
        if self._early is not None:
            self._take_programs(self._early)
        if self._unready:
            for leader, *followers in self._unready.take(idle=not self.scheduler.has_work):
                self.scheduler.submit(leader, followers)
        return self._told(self.steps.advance(self.scheduler, overlapped=self.config.async_scheduling))

    def _told(self, events: list[TokenEvent]) -> list[TokenEvent]:
        """What the world is told of a step: of beams what their searches find, of other requests what there is."""
        if not self._searches:
            return events
        told = self._searches.advance(events, self.scheduler)
        self.metrics.finished += sum(event.finish is not None for event in told) - sum(
            event.finish is not None for event in events
        )
        return told

    def _take_programs(self, early: EarlyStart) -> None:
        """Use the step shapes that were compiled since."""
        table = early.grown()
        if table is not None:
            self._use(table)
        self.metrics.compiles_at_start = self._compiles.count  # none of these is one that a step waits for
        if early.done:
            self._early = None

    def _use(self, table: BucketTable) -> None:
        """Take these shapes for steps."""
        self.scheduler.buckets = table
        if self.draft is not None:
            self.draft.buckets = table

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that a token takes in the KV pool, in all layers together, scales included."""
        return kv_bytes_per_token(self.config, self.model_config)

    def fingerprint(self) -> str:
        """16 hex digits that stand for weights, kernels and options; see `fingerprint_of_engine`."""
        return fingerprint_of_engine(self.config, self.runner.fingerprint)

    def describe(self) -> list[tuple[str, str]]:
        """The start-up table: what was chosen, and why."""
        return start_table(
            self._programs,
            self.buckets,
            device=self.device,
            weight_bytes=self.weight_bytes,
            dtype_reason=self._dtype_reason,
            cache_folder=self._cache_folder,
            sampling=self.sampling_defaults.describe(),
            draft=self.draft,
            ready=f"{self.startup_s:.1f} s, {self.metrics.compiles_at_start} programs compiled or loaded",
        )

    @property
    def pool_is_lost(self) -> bool:
        """Whether a failed or interrupted step took the pool with it: steps then raise EngineError."""
        return self.runner.pool_is_lost

    def rebuild_pool(self) -> None:
        """Begin again with an empty pool, where a step took it. Raises EngineError unless idle."""
        self.require_idle("rebuild_pool")
        self.scheduler.reset_prefix_cache()
        self.steps.drop(self.scheduler)
        self.runner.rebuild_pool()

    def _free_id(self, number: int) -> str:
        """A name for the request of this number; users may have given such names themselves."""
        names = itertools.chain([f"request-{number}"], (f"request-{number}-{i}" for i in itertools.count(1)))
        return next(name for name in names if name not in self.scheduler and name not in self._unready)

    def _count(self, plan: StepPlan, events: Sequence[TokenEvent]) -> None:
        metrics = self.metrics
        metrics.add_step(plan, events)
        if self._estimates:
            dtypes = {"dtype": self.config.weight_dtype, "kv_dtype": self.config.kv_cache_dtype}
            metrics.add_work(work_of(plan, self.model_config, **dtypes, padded=False))
        metrics.compiles_after_ready = self._compiles.count - metrics.compiles_at_start
        self.ledger = self.scheduler.ledger()
        metrics.add_ledger(self.ledger)
        metrics.add_totals(self.scheduler)

    def require_idle(self, action: str) -> None:
        """Raise EngineError unless no request is in flight."""
        if self.has_unfinished:
            raise EngineError(
                name=action,
                value=self.scheduler.num_running + self.scheduler.num_waiting + len(self._unready),
                limit="it needs an engine with no request in flight",
            )


__all__ = ["Device", "LLMEngine"]
