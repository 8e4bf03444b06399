"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import cast

import msgspec
from aiohttp import web

from jaxpaged.errors import ParameterError, PromptError
from jaxpaged.prompt import check_tokens
from jaxpaged.request import CompletionOutput, SamplingParams
from jaxpaged.sampling_defaults import SamplingDefaults
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged_server.access.keys import Key
from jaxpaged_server.api.common import ABSENT, MAX_PROMPTS, StreamOptions, Usage, usage_of
from jaxpaged_server.api.completions import (
    REFUSED,
    CompletionChoice,
    CompletionEvent,
    CompletionReply,
    CompletionRequest,
)
from jaxpaged_server.body import read_struct
from jaxpaged_server.generation import Answer, Job, Prompt, answering, gather, outputs_of
from jaxpaged_server.logprobs import completion_logprobs, prompt_logprobs_reply
from jaxpaged_server.reply import json_reply
from jaxpaged_server.routes.sampling import (
    Head,
    cut_prompt,
    deadline_of,
    make_head,
    make_job,
    num_scores,
    num_told,
    sampling_params,
)
from jaxpaged_server.routes.streaming import stream_reply
from jaxpaged_server.routes.structured import asked_form
from jaxpaged_server.services import Services, key_of, services_of
from jaxpaged_server.stream import EventStream

_DEFAULT_TOKENS = 16
"""Of an answer, where a request does not say how many: OpenAI's number, which no generation_config.json changes."""


async def create_completion(request: web.Request) -> web.StreamResponse:
    """Complete one prompt or several."""
    services = services_of(request)
    services.check_open(key_of(request))
    body = await read_struct(request, CompletionRequest, refused=REFUSED)
    head = make_head(services, request, body, "cmpl")
    deadline = deadline_of(services, request, body.timeout)
    async with services.deadline(deadline):
        form = await asked_form(services, request, body)
        size = len(body.allowed_token_ids or ())  # a million take long to look through
        defaults = services.info().sampling_defaults
        params = await services.text.aside(key_of(request), size, lambda: _params(body, defaults, form))
        prompts = await _prompts(services, key_of(request), body, params)
    job = make_job(services, request, body, prompts, params, asked_tokens=_asked_tokens(body), deadline=deadline)
    with answering(services, job) as answers:
        writer = _Writer(services, head, body, job, answers)
        if body.stream:
            return await stream_reply(request, services, job, writer.events)
        async with services.deadline(job.deadline):
            outputs = await gather(answers, job)
        headers = services.load_headers(request)
        size = num_scores(job, answers)
        return await services.text.aside(job.key, size, lambda: json_reply(writer.reply(outputs), headers=headers))


class _Writer:
    """Outputs in the form of the API: one per request."""

    def __init__(
        self, services: Services, head: Head, body: CompletionRequest, job: Job, answers: Sequence[Answer]
    ) -> None:
        self._services = services
        self._head = head
        self._body = body
        self._job = job
        self._answers = answers
        self._offsets = [0] * len(answers)  # characters of a choice that are told
        self._begun = [False] * len(answers)
        self._options = body.stream_options or StreamOptions()
        self._scores_only = body.max_tokens == 0

    def reply(self, outputs: Sequence[tuple[Answer, CompletionOutput]]) -> CompletionReply:
        """All of it, at once."""
        head = self._head
        return CompletionReply(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=[
                msgspec.structs.replace(self.choice(answer, said), index=i) for i, (answer, said) in enumerate(outputs)
            ],
            usage=self.usage(),
            system_fingerprint=head.system_fingerprint,
        )

    def choice(self, answer: Answer, said: CompletionOutput) -> CompletionChoice:
        """What an output tells, as a choice; the prompt goes before the first one where it is echoed."""
        body, i = self._body, answer.index
        if self._scores_only:  # its one token is nobody's
            reason = "length" if said.finish_reason == "stop" else said.finish_reason
            said = replace(said, text="", token_ids=(), logprobs=(), finish_reason=reason, stop_reason=None)
        first, self._begun[i] = not self._begun[i], True
        echoed = (self._echo_text(answer) if first else "") if body.echo else ""
        tokenizer = self._services.text.tokenizer
        logprobs = None
        if body.logprobs is not None:
            logprobs = completion_logprobs(
                tokenizer,
                ids=said.token_ids,
                logprobs=said.logprobs or (),
                prompt_ids=answer.prompt.ids if body.echo and first else (),
                prompt_logprobs=(answer.prompt_logprobs or ()) if body.echo and first else (),
                wanted=body.logprobs,
                named=body.logprob_token_ids or (),
                start=self._offsets[i],
                as_ids=bool(body.return_tokens_as_token_ids),
            )
        self._offsets[i] += len(echoed) + len(said.text)
        return CompletionChoice(
            index=i,
            text=echoed + said.text,
            logprobs=logprobs,
            finish_reason=said.finish_reason,
            stop_reason=said.stop_reason,
            prompt_logprobs=prompt_logprobs_reply(
                tokenizer, answer.prompt.ids, answer.prompt_logprobs, wanted=body.prompt_logprobs
            )
            if body.prompt_logprobs is not None and first
            else ABSENT,
            token_ids=list(said.token_ids) if body.return_token_ids else ABSENT,
            prompt_token_ids=list(answer.prompt.ids) if body.return_token_ids and first else ABSENT,
        )

    async def events(self, events: EventStream) -> None:
        """Send the whole stream but its end."""
        options, of_prompt = self._options, self._job.prompt_scores // len(self._answers)
        async with aclosing(outputs_of(self._answers)) as outputs:
            async for answer, said in outputs:
                usage = self.usage() if options.continuous_usage_stats else ABSENT
                scores = num_told(self._job, len(said.token_ids)) + (0 if self._begun[answer.index] else of_prompt)
                if scores:
                    choice = await self._services.text.aside(self._job.key, scores, partial(self.choice, answer, said))
                else:
                    choice = self.choice(answer, said)
                await events.send(self._event([choice], usage))
        if options.include_usage:
            await events.send(self._event([], self.usage()))

    def usage(self) -> Usage:
        """Of all answers so far; a prompt counts once, however many answers it has."""
        answers, job = self._answers, self._job
        cached = sum(answer.request.num_cached for answer in answers[:: job.n])
        tokens = 0 if self._scores_only else sum(answer.num_tokens for answer in answers)
        return usage_of(job.prompt_tokens, tokens, cached)

    def _event(self, choices: list[CompletionChoice], usage: Usage | msgspec.UnsetType) -> CompletionEvent:
        head = self._head
        return CompletionEvent(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            system_fingerprint=head.system_fingerprint,
            usage=usage,
        )

    def _echo_text(self, answer: Answer) -> str:
        if answer.prompt.text is not None:
            return answer.prompt.text
        return self._services.text.tokenizer.decode(answer.prompt.ids, skip_special_tokens=False)


def _asked_tokens(body: CompletionRequest) -> int:
    return _DEFAULT_TOKENS if body.max_tokens is None else max(1, body.max_tokens)


def _params(
    body: CompletionRequest, defaults: SamplingDefaults, form: StructuredOutputsParams | None
) -> SamplingParams:
    """Raises ParameterError. No answer at all (max_tokens 0) is for scoring an echoed prompt: one token is computed and
    not told."""
    if body.max_tokens == 0 and not body.echo:
        raise ParameterError(
            name="max_tokens", value=0, limit="it must be at least 1 where the prompt is not echoed", fix="Set echo"
        )
    prompt_logprobs = body.prompt_logprobs
    if body.echo and body.logprobs is not None:
        prompt_logprobs = -1 if body.logprobs == -1 else max(body.logprobs, prompt_logprobs or 0)
    params = sampling_params(
        body,
        defaults,
        max_tokens=_asked_tokens(body),
        logprobs=body.logprobs,
        prompt_logprobs=prompt_logprobs,
        form=form,
    )
    return replace(params, min_tokens=0) if body.max_tokens == 0 else params


async def _prompts(services: Services, key: Key, body: CompletionRequest, params: SamplingParams) -> tuple[Prompt, ...]:
    """The prompts of a body. Raises PromptError, ContextLengthError, ParameterError, and QueueFullError where too much
    of this key waits."""
    given, longest = body.prompt, services.info().max_model_len
    if isinstance(given, list) and given and isinstance(given[0], int):
        if params.truncate_prompt_tokens is None:
            check_tokens(len(given), max_model_len=longest)  # at first: to look through a million takes long
        if await services.text.aside(key, len(given), lambda: set(map(type, given))) == {int}:
            given = [given]  # one prompt of token ids
    items = given if isinstance(given, list) else [given]
    if not items:
        raise PromptError(name="prompt", value=[], limit="it has no token", fix="Give at least one")
    if len(items) > MAX_PROMPTS:
        limit = f"a request may hold {MAX_PROMPTS} prompts"
        raise ParameterError(name="prompt", value=f"{len(items)} prompts", limit=limit, fix="Send several requests")
    kinds = {type(item) for item in items}
    if len(kinds) > 1 or int in kinds:
        limit = "it must be a text, texts, token ids, or lists of token ids, not a mixture"
        raise PromptError(name="prompt", value=given, limit=limit)
    special = True if body.add_special_tokens is None else body.add_special_tokens
    whole = params.truncate_prompt_tokens is None
    prompts: list[Prompt] = []
    for item in items:
        if isinstance(item, str):
            if whole:
                services.text.check_length(len(item), longest)
            ids = await services.text.encode(key, item, add_special_tokens=special)
            prompts.append(cut_prompt(Prompt(ids=ids, text=item), params, max_model_len=longest))
        else:
            assert isinstance(item, list)
            if whole:
                check_tokens(len(item), max_model_len=longest)
            ids = tuple(cast("list[int]", item))
            prompts.append(cut_prompt(Prompt(ids=ids), params, max_model_len=longest))
    return tuple(prompts)
