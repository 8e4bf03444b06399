"""The grammar that tools and reasoning put upon an answer: of calls that are required or strict, of a form that comes
after what the model thinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxpaged.dialects.call_format import CallFormat
from jaxpaged.dialects.dialect import Dialect
from jaxpaged.dialects.forced import after_thoughts, forced_calls, form_or_calls, strict_calls
from jaxpaged.errors import RequestError
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged_server.access.keys import Key
from jaxpaged_server.api.parse import BodyError
from jaxpaged_server.routes.tools import ToolPlan
from jaxpaged_server.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """form: what the answer is held to; None: nothing. calls: how calls are read, if not in the model's way."""

    form: StructuredOutputsParams | None = None
    calls: CallFormat | None = None


async def call_form(
    services: Services,
    key: Key,
    plan: ToolPlan,
    prompt: str,
    *,
    size: int,
    asked: StructuredOutputsParams | None,
    place: str,
) -> CallForm:
    """What a plan asks of the answer to a prompt. size: characters of the body, by which it takes long to make.

    asked: the form that the request asks for by itself, at `place` in the body. It comes after what the model thinks;
    where the model may choose to call, the answer is calls or has this form.

    Raises BodyError with the place in the body of what no grammar can be made of, and QueueFullError where too much of
    this key waits.
    """
    if asked is not None and plan.is_forced:
        limit = "the answer is to be calls, and of another form as well"
        fix = "Leave out response_format and structured_outputs, or let the model choose"
        raise BodyError(name="tool_choice", value=plan.choice, limit=limit, fix=fix, param="tool_choice")
    if asked is None and not _held(plan):
        return CallForm()
    if asked is None:
        place = "tools"
    made = await services.text.aside(key, size, lambda: _made(services, plan, prompt, asked, place))
    for where, form in made.parts:
        await _check(services, key, form, where)
    if made.whole.form is not None and made.whole.form is not asked:
        await _check(services, key, made.whole.form, place)
    return made.whole


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """parts: forms that the whole one is made of, by their places in the body."""

    whole: CallForm
    parts: list[tuple[str, StructuredOutputsParams]]


def _made(services: Services, plan: ToolPlan, prompt: str, asked: StructuredOutputsParams | None, place: str) -> _Made:
    """Raises BodyError for what is too long, or for a form that a grammar cannot tell from the model's calls."""
    dialect, calls = services.dialect, None
    if asked is not None:
        form = _with_asked(dialect, plan, prompt, asked, place)
        if form is asked or not plan.schemas:
            return _Made(whole=CallForm(form=form), parts=[])
    else:
        if plan.is_forced:
            named = plan.choice == "named"
            forced = forced_calls(dialect, plan.schemas, prompt=prompt, one=plan.one, named=named)
            tag, calls = forced.tag, forced.calls
        else:
            tag = strict_calls(dialect, plan.schemas, plan.strict, prompt=prompt)
        if tag is None:
            return _Made(whole=CallForm(), parts=[])
        form = _form(services, place, structural_tag=tag)
    parts = [(plan.places[name], _form(services, plan.places[name], json=plan.schemas[name])) for name in _held(plan)]
    return _Made(whole=CallForm(form=form, calls=calls), parts=parts)


def _with_asked(
    dialect: Dialect, plan: ToolPlan, prompt: str, asked: StructuredOutputsParams, place: str
) -> StructuredOutputsParams:
    """A form that is asked for, after thoughts, and calls in its place where there may be some. Raises as `_made`."""
    try:
        if not plan.schemas:
            return after_thoughts(dialect, asked, prompt=prompt)
        form = form_or_calls(dialect, asked, plan.schemas, plan.strict, prompt=prompt, one=plan.one)
    except RequestError as error:
        raise BodyError(name=place, value=error.value, limit=error.limit, fix=error.fix, param=place) from None
    if form is None:
        limit = "the model may choose to call tools, and no grammar says how it writes calls"
        fix = "Leave out tools or set tool_choice to none, or ask for the form in another request"
        raise BodyError(name=place, value=asked.kind, limit=limit, fix=fix, param=place)
    return form


def _held(plan: ToolPlan) -> list[str]:
    """Functions whose arguments are held to their schemas."""
    return [name for name in plan.schemas if plan.is_forced or name in plan.strict]


def _form(services: Services, place: str, **asked: Any) -> StructuredOutputsParams:
    """What a tool asks for, its JSON laid out as that of other forms. Raises BodyError."""
    config = services.settings.structured_outputs_config
    try:
        return StructuredOutputsParams(
            **asked,
            disable_additional_properties=True,
            disable_any_whitespace=config is not None and config.disable_any_whitespace,
        )
    except RequestError as error:
        raise BodyError(name=place, value=error.value, limit=error.limit, fix=error.fix, param=place) from None


async def _check(services: Services, key: Key, form: StructuredOutputsParams, place: str) -> None:
    """Raises as `call_form`."""
    try:
        await services.forms.check(key, form)
    except RequestError as error:
        name = f"{place}{error.name[1:]}" if error.name.startswith("$") and form.kind == "json" else place
        raise BodyError(name=name, value=error.value, limit=error.limit, fix=error.fix, param=name) from None
