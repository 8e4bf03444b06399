"""The grammar that tools and reasoning put upon an answer: of calls that are required or strict, of a form that comes
after what the model thinks."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaged.dialects.call_format import CallFormat
from jaxpaged.dialects.forced import after_thoughts, forced_calls, strict_calls
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
    services: Services, key: Key, plan: ToolPlan, prompt: str, *, asked: StructuredOutputsParams | None
) -> CallForm:
    """What a plan asks of the answer to a prompt. asked: the form that the request asks for by itself. It comes after
    what the model thinks, and what that chooses to call is not held to anything else then.

    Raises BodyError with the place in the body of what no grammar can be made of, and QueueFullError where too much of
    this key waits.
    """
    if asked is not None:
        if plan.is_forced:
            limit = "the answer is to be calls, and of another form as well"
            fix = "Leave out response_format and structured_outputs, or let the model choose"
            raise BodyError(name="tool_choice", value=plan.choice, limit=limit, fix=fix, param="tool_choice")
        form = after_thoughts(services.dialect, asked, prompt=prompt)
        if form is not asked:
            await services.forms.check(key, form)
        return CallForm(form=form)
    held = plan.schemas if plan.is_forced else [name for name in plan.schemas if name in plan.strict]
    if not held:
        return CallForm()
    dialect = services.dialect
    if plan.is_forced:
        named = plan.choice == "named"
        forced = forced_calls(dialect, plan.schemas, prompt=prompt, one=plan.one, named=named)
        tag, calls = forced.tag, forced.calls
    else:
        tag, calls = strict_calls(dialect, plan.schemas, plan.strict, prompt=prompt), None
    if tag is None:
        return CallForm()
    for name in held:
        await _check(services, key, {"json": dict(plan.schemas[name])}, plan.places[name])
    return CallForm(form=await _check(services, key, {"structural_tag": tag}, "tools"), calls=calls)


async def _check(services: Services, key: Key, asked: dict[str, object], place: str) -> StructuredOutputsParams:
    """The form, once it is known that a grammar can be made of it. Raises as `call_form`."""
    try:
        form = StructuredOutputsParams(**asked, disable_additional_properties=True)  # pyright: ignore[reportArgumentType]
        await services.forms.check(key, form)
    except RequestError as error:
        name = f"{place}{error.name[1:]}" if error.name.startswith("$") and "json" in asked else place
        raise BodyError(name=name, value=error.value, limit=error.limit, fix=error.fix, param=name) from None
    return form
