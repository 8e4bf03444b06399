"""The form that a body asks its answers to have, and where in the body it stands."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from jaxpaged.errors import ParameterError, RequestError
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged_server.api.common import SamplingFields
from jaxpaged_server.api.parse import BodyError
from jaxpaged_server.api.structured import JsonObjectFormat, JsonSchemaFormat, StructuralTagFormat
from jaxpaged_server.services import Services, key_of
from jaxpaged_server.structured_outputs_config import StructuredOutputsConfig

_FORMAT, _OUTPUTS = "response_format", "structured_outputs"


async def asked_form(services: Services, request: web.Request, body: SamplingFields) -> StructuredOutputsParams | None:
    """The form that a body asks for, once it is known that a grammar can be made of it; None for any text.

    Raises BodyError with the path of the fault in the body, and QueueFullError where too much of this key waits.
    """
    key = key_of(request)
    path, fields = _asked(body)
    if not fields:
        return None
    if (config := services.settings.structured_outputs_config) is not None:
        fields = _laid_out(fields, config)
    try:
        size = len(await request.read())  # read before: to write out a long schema takes as long as to read it
        form = await services.text.aside(key, size, lambda: StructuredOutputsParams(**fields))
        if path == _OUTPUTS:
            path = f"{_OUTPUTS}.{form.kind}"
        await services.forms.check(key, form)
    except RequestError as error:
        raise _in_body(error, path) from None
    return form


def place_of(body: SamplingFields, form: StructuredOutputsParams) -> str:
    """Where in a body the form stands that it asks for."""
    path, _ = _asked(body)
    return f"{path}.{form.kind}" if path == _OUTPUTS else path


def _asked(body: SamplingFields) -> tuple[str, dict[str, Any]]:
    """The path of what asks for a form, and the fields of `StructuredOutputsParams` that it means; none for any text.

    Raises ParameterError for two forms.
    """
    path, fields = _of_format(body)
    outputs = body.structured_outputs
    if outputs is None:
        return path, fields
    given = _given(outputs)
    if fields:
        limit = f"{_FORMAT} says already what form the answer has"
        raise ParameterError(name=_OUTPUTS, value=sorted(given), limit=limit, fix="Give one of the two")
    return _OUTPUTS, given or {"json": None}  # which is refused: an object without a form


def _of_format(body: SamplingFields) -> tuple[str, dict[str, Any]]:
    match body.response_format:
        case JsonObjectFormat():
            return _FORMAT, {"json_object": True}
        case JsonSchemaFormat(json_schema=asked):
            return f"{_FORMAT}.json_schema.schema", {"json": asked.schema}
        case StructuralTagFormat() as asked:
            return _FORMAT, {"structural_tag": {"type": "structural_tag", **_given(asked)}}
        case _:
            return _FORMAT, {}


def _laid_out(fields: dict[str, Any], config: StructuredOutputsConfig) -> dict[str, Any]:
    """The fields of a form, with what the server says of all of them."""
    if config.disable_additional_properties:
        fields = {"disable_additional_properties": True, **fields}
    if config.disable_any_whitespace and "whitespace_pattern" not in fields:
        fields = {"disable_any_whitespace": True, **fields}
    return fields


def _given(asked: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(asked).items() if value is not None}


def _in_body(error: RequestError, path: str) -> BodyError:
    """The error with the fault's place in the body: what is within a schema begins with $, all else names a field."""
    name = error.name
    if name.startswith("$"):
        name = f"{path}{name[1:]}"
    elif not path.startswith(_OUTPUTS):
        name = path
    elif name != _OUTPUTS:
        name = f"{_OUTPUTS}.{name}"
    return BodyError(name=name, value=error.value, limit=error.limit, fix=error.fix, param=name)
