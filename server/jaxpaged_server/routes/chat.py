"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from jaxpaged.errors import ParameterError
from jaxpaged.request import CompletionOutput, SamplingParams
from jaxpaged.sampling_defaults import SamplingDefaults
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged_server.access.keys import Key
from jaxpaged_server.api.chat import (
    REFUSED,
    AnswerMessage,
    ChatChoice,
    ChatEvent,
    ChatEventChoice,
    ChatLogprobs,
    ChatMessage,
    ChatReply,
    ChatRequest,
    Delta,
)
from jaxpaged_server.api.common import ABSENT, StreamOptions, Usage, usage_of
from jaxpaged_server.body import read_struct
from jaxpaged_server.generation import Answer, Job, Prompt, answering, gather, outputs_of
from jaxpaged_server.logprobs import chat_logprobs, prompt_logprobs_reply
from jaxpaged_server.reply import json_reply
from jaxpaged_server.routes.messages import plain_message, text_of
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
from jaxpaged_server.templating.variables import is_free


async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """Answer a conversation."""
    services = services_of(request)
    services.check_open(key_of(request))
    body = await read_struct(request, ChatRequest, refused=REFUSED)
    head = make_head(services, request, body, "chatcmpl")
    deadline = deadline_of(services, request, body.timeout)
    async with services.deadline(deadline):
        form = await asked_form(services, request, body)
        size = len(body.allowed_token_ids or ())  # a million take long to look through
        defaults = services.info().sampling_defaults
        params = await services.text.aside(key_of(request), size, lambda: _params(body, defaults, form))
        prompt = await _prompt(services, key_of(request), body, params)
    job = make_job(services, request, body, (prompt,), params, asked_tokens=_asked_tokens(body), deadline=deadline)
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

    def __init__(self, services: Services, head: Head, body: ChatRequest, job: Job, answers: Sequence[Answer]) -> None:
        self._services = services
        self._head = head
        self._body = body
        self._job = job
        self._answers = answers
        self._options = body.stream_options or StreamOptions()
        self._begun = [False] * len(answers)
        self._role = services.settings.response_role
        self._echoed = _echoed(body, self._role)
        self._opening = Delta(role=self._role, content=self._echoed)

    def reply(self, outputs: Sequence[tuple[Answer, CompletionOutput]]) -> ChatReply:
        """All of it, at once."""
        head, body = self._head, self._body
        choices = [
            ChatChoice(
                index=i,
                message=AnswerMessage(content=self._echoed + said.text, role=self._role),
                logprobs=self._logprobs(said),
                finish_reason=said.finish_reason,
                stop_reason=said.stop_reason,
                token_ids=list(said.token_ids) if body.return_token_ids else ABSENT,
            )
            for i, (_, said) in enumerate(outputs)
        ]
        found = self._answers[0].prompt_logprobs
        tokenizer, ids = self._services.text.tokenizer, self._job.prompts[0].ids
        return ChatReply(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=self.usage(),
            system_fingerprint=head.system_fingerprint,
            prompt_logprobs=ABSENT
            if body.prompt_logprobs is None
            else prompt_logprobs_reply(tokenizer, ids, found, wanted=body.prompt_logprobs),
            prompt_token_ids=list(ids) if body.return_token_ids else ABSENT,
        )

    async def events(self, events: EventStream) -> None:
        """Send the whole stream but its end: the role, then what is said, then the usage where it is asked for."""
        options = self._options
        async with aclosing(outputs_of(self._answers)) as outputs:
            async for answer, said in outputs:
                i, usage = answer.index, self.usage() if options.continuous_usage_stats else ABSENT
                if not self._begun[i]:
                    self._begun[i] = True
                    opening = self._event([ChatEventChoice(index=i, delta=self._opening)], usage)
                    if self._body.return_token_ids:
                        ids = list(self._job.prompts[0].ids)
                        opening = msgspec.structs.replace(opening, prompt_token_ids=ids)
                    await events.send(opening)
                scores = num_told(self._job, len(said.token_ids))
                logprobs = None
                if scores:
                    logprobs = await self._services.text.aside(self._job.key, scores, partial(self._logprobs, said))
                choice = ChatEventChoice(
                    index=i,
                    delta=Delta(content=said.text) if said.text else Delta(),
                    logprobs=logprobs,
                    finish_reason=said.finish_reason,
                    stop_reason=ABSENT if said.finish_reason is None else said.stop_reason,
                    token_ids=list(said.token_ids) if self._body.return_token_ids else ABSENT,
                )
                if said.text or said.token_ids or said.finish_reason:
                    await events.send(self._event([choice], usage))
        if options.include_usage:
            await events.send(self._event([], self.usage()))

    def usage(self) -> Usage:
        """Of all answers so far; the prompt counts once."""
        answers = self._answers
        tokens = sum(answer.num_tokens for answer in answers)
        return usage_of(self._job.prompt_tokens, tokens, answers[0].request.num_cached)

    def _logprobs(self, said: CompletionOutput) -> ChatLogprobs | None:
        body = self._body
        if not body.logprobs:
            return None
        wanted, as_ids = body.top_logprobs or 0, bool(body.return_tokens_as_token_ids)
        tokenizer = self._services.text.tokenizer
        return chat_logprobs(
            tokenizer,
            said.token_ids,
            said.logprobs or (),
            wanted=wanted,
            named=body.logprob_token_ids or (),
            as_ids=as_ids,
        )

    def _event(self, choices: list[ChatEventChoice], usage: Usage | msgspec.UnsetType) -> ChatEvent:
        head = self._head
        return ChatEvent(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            system_fingerprint=head.system_fingerprint,
            usage=usage,
        )


def _asked_tokens(body: ChatRequest) -> int | None:
    return body.max_completion_tokens if body.max_tokens is None else body.max_tokens


def _params(body: ChatRequest, defaults: SamplingDefaults, form: StructuredOutputsParams | None) -> SamplingParams:
    """Raises ParameterError."""
    given = (body.max_tokens, body.max_completion_tokens)
    if None not in given and given[0] != given[1]:
        limit = f"it says something else than max_completion_tokens={given[1]}"
        raise ParameterError(name="max_tokens", value=given[0], limit=limit, fix="Give one of the two")
    if body.top_logprobs and not body.logprobs:
        limit = "logprobs are not asked for"
        raise ParameterError(name="top_logprobs", value=body.top_logprobs, limit=limit, fix="Set logprobs to true")
    if body.stream and body.prompt_logprobs is not None:
        limit = "a stream does not tell them"
        raise ParameterError(name="prompt_logprobs", value=body.prompt_logprobs, limit=limit, fix="Set stream to false")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return sampling_params(
        body,
        defaults,
        max_tokens=_asked_tokens(body),
        logprobs=logprobs,
        prompt_logprobs=body.prompt_logprobs,
        form=form,
    )


async def _prompt(services: Services, key: Key, body: ChatRequest, params: SamplingParams) -> Prompt:
    if body.chat_template is not None and not services.settings.trust_request_chat_template:
        limit = "templates of requests are not run here"
        fix = "Leave it out; the server's --trust-request-chat-template would allow it"
        raise ParameterError(name="chat_template", value=body.chat_template, limit=limit, fix=fix)
    text = await render_chat(
        services,
        key,
        body.messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        variables=body.chat_template_kwargs,
        template=body.chat_template,
        any_length=params.truncate_prompt_tokens is not None,
    )
    ids = await services.text.encode(key, text, add_special_tokens=bool(body.add_special_tokens))
    return cut_prompt(Prompt(ids=ids, text=text), params, max_model_len=services.info().max_model_len)


async def render_chat(
    services: Services,
    key: Key,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool | None,
    continue_final_message: bool,
    variables: dict[str, Any] | None,
    template: str | None = None,
    any_length: bool = False,
) -> str:
    """The prompt of a conversation. any_length: it may be longer than the model's context.

    Raises ParameterError, PromptError, ContextLengthError, TokenizerError, and QueueFullError where too much of this
    key waits.
    """
    for name in variables or {}:
        if not is_free(name):
            limit = "it may not be set for the chat template"
            raise ParameterError(name="chat_template_kwargs", value=name, limit=limit)
    if continue_final_message and add_generation_prompt:
        limit = "it contradicts continue_final_message"
        raise ParameterError(name="add_generation_prompt", value=True, limit=limit, fix="Set one of the two")
    generation = not continue_final_message if add_generation_prompt is None else add_generation_prompt
    if not any_length:
        services.text.check_length(sum(len(text_of(message)) for message in messages), services.info().max_model_len)
    text = await services.text.render(
        key,
        [plain_message(message, f"messages[{i}]") for i, message in enumerate(messages)],
        add_generation_prompt=generation,
        continue_final_message=continue_final_message,
        variables={**services.settings.default_chat_template_kwargs, **(variables or {})},
        template=template,
    )
    if not any_length:
        services.text.check_length(len(text), services.info().max_model_len)
    return text


def _echoed(body: ChatRequest, role: str) -> str:
    """What goes before the answer: the last message, where the answer goes on with it or is of the same role."""
    last = body.messages[-1]
    goes_on = body.continue_final_message or body.add_generation_prompt is False
    return text_of(last) if body.echo and (goes_on or last.role == role) else ""
