"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from aiohttp import web

from jaxpaged.dialects.parser import DialectParser
from jaxpaged.errors import ParameterError
from jaxpaged.request import SamplingParams
from jaxpaged.sampling_defaults import SamplingDefaults
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged_server.access.keys import Key
from jaxpaged_server.api.chat import REFUSED, ChatMessage, ChatRequest
from jaxpaged_server.api.parse import BodyError
from jaxpaged_server.body import read_struct
from jaxpaged_server.generation import Prompt, answering, gather
from jaxpaged_server.reply import json_reply
from jaxpaged_server.routes.chat_writer import ChatWriter
from jaxpaged_server.routes.forced import CallForm, call_form
from jaxpaged_server.routes.messages import plain_message, text_of
from jaxpaged_server.routes.sampling import (
    cut_prompt,
    deadline_of,
    make_head,
    make_job,
    num_scores,
    sampling_params,
)
from jaxpaged_server.routes.streaming import stream_reply
from jaxpaged_server.routes.structured import asked_form, place_of
from jaxpaged_server.routes.tools import ToolPlan, plan_tools
from jaxpaged_server.services import Services, key_of, services_of
from jaxpaged_server.templating.variables import is_free

_LAST = 64
"""Tokens of a prompt's end in which it is seen whether the answer begins with reasoning."""


async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """Answer a conversation."""
    services = services_of(request)
    services.check_open(key_of(request))
    body = await read_struct(request, ChatRequest, refused=REFUSED)
    head = make_head(services, request, body, "chatcmpl")
    deadline = deadline_of(services, request, body.timeout)
    async with services.deadline(deadline):
        form = await asked_form(services, request, body)
        length = len(await request.read()) if body.tools or form is not None else 0  # schemas take as long as they are
        plan = await services.text.aside(key_of(request), length, lambda: _plan(services, body))
        size = len(body.allowed_token_ids or ())  # a million take long to look through
        defaults = services.info().sampling_defaults
        params = await services.text.aside(key_of(request), size, lambda: _params(body, defaults, form))
        prompt = await _prompt(services, key_of(request), body, params, plan)
        end, place = _end(services, prompt), "" if form is None else place_of(body, form)
        calls = await call_form(services, key_of(request), plan, end, size=length, asked=form, place=place)
        params = params.with_form(calls.form)
    new_parser = _new_parser(services, plan, prompt, calls)
    job = make_job(
        services,
        request,
        body,
        (prompt,),
        params,
        asked_tokens=_asked_tokens(body),
        deadline=deadline,
        shown=frozenset() if new_parser is None else services.markup,
    )
    with answering(services, job) as answers:
        writer = ChatWriter(
            services,
            head,
            body,
            job,
            answers,
            new_parser=new_parser,
            most_calls=1 if plan.one else None,
            ends_in_calls=plan.choice != "named",
        )
        if body.stream:
            return await stream_reply(request, services, job, writer.events)
        async with services.deadline(job.deadline):
            outputs = await gather(answers, job)
        headers = services.load_headers(request)
        size = num_scores(job, answers) + (sum(len(said.text) for _, said in outputs) if new_parser else 0)
        return await services.text.aside(job.key, size, lambda: json_reply(writer.reply(outputs), headers=headers))


def _plan(services: Services, body: ChatRequest) -> ToolPlan:
    """Raises BodyError; also for calls that a beam search would have to be held to."""
    plan = plan_tools(
        body.tools,
        body.tool_choice,
        parallel=body.parallel_tool_calls,
        settings=services.settings,
        dialect=services.dialect,
    )
    if body.use_beam_search and (plan.is_forced or plan.strict):
        name, value = ("tool_choice", plan.choice) if plan.is_forced else ("tools", f"strict: {sorted(plan.strict)}")
        fix = "Set use_beam_search to false, or let the model choose among tools that are not strict"
        raise BodyError(name=name, value=value, limit="a beam search is held to no form", fix=fix, param=name)
    return plan


def _new_parser(
    services: Services, plan: ToolPlan, prompt: Prompt, calls: CallForm
) -> Callable[[], DialectParser] | None:
    """Makes the parser of an answer; None where all of it is content."""
    dialect = services.dialect
    if not plan.schemas and dialect.reasoning is None:
        return None
    return partial(dialect.parser, plan.schemas, prompt=_end(services, prompt), calls=calls.calls)


def _end(services: Services, prompt: Prompt) -> str:
    """A prompt's text, or the end of it: of one that was cut there are tokens alone."""
    if prompt.text is not None:
        return prompt.text
    return services.text.tokenizer.decode(prompt.ids[-_LAST:], skip_special_tokens=False)


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


async def _prompt(services: Services, key: Key, body: ChatRequest, params: SamplingParams, plan: ToolPlan) -> Prompt:
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
        variables=_variables(body),
        template=body.chat_template,
        any_length=params.truncate_prompt_tokens is not None,
        tools=plan.shown,
    )
    ids = await services.text.encode(key, text, add_special_tokens=bool(body.add_special_tokens))
    return cut_prompt(Prompt(ids=ids, text=text), params, max_model_len=services.info().max_model_len)


def _variables(body: ChatRequest) -> dict[str, Any]:
    """Of the chat template; what is asked for by name comes first."""
    effort = body.reasoning_effort
    told: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
    if effort == "none":
        told["enable_thinking"] = False
    return {**told, **(body.chat_template_kwargs or {})}


async def render_chat(
    services: Services,
    key: Key,
    messages: Sequence[ChatMessage],
    *,
    add_generation_prompt: bool | None,
    continue_final_message: bool,
    variables: dict[str, Any] | None,
    template: str | None = None,
    tools: list[dict[str, Any]] | None = None,
    any_length: bool = False,
) -> str:
    """The prompt of a conversation. tools: as the template is shown them. any_length: it may be longer than the model's
    context.

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
    told = {} if tools is None else {"tools": tools}
    text = await services.text.render(
        key,
        [plain_message(message, f"messages[{i}]") for i, message in enumerate(messages)],
        add_generation_prompt=generation,
        continue_final_message=continue_final_message,
        variables={**services.settings.default_chat_template_kwargs, **(variables or {}), **told},
        template=template,
    )
    if not any_length:
        services.text.check_length(len(text), services.info().max_model_len)
    return text
