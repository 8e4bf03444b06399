"""openapi.json, made of the table of routes and of the structs that bodies are read into."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from jaxpaged import __version__
from jaxpaged_server.api.common import ErrorReply
from jaxpaged_server.routes.table import Route

_WHAT = {
    400: "The request cannot be served as asked",
    401: "No key, or not one of the server's",
    404: "It is not served here",
    413: "The body is too large",
    415: "The body is not JSON, or compressed",
    429: "Too much at a time; Retry-After says when to try again",
    503: "Not ready",
    504: "The request's time is over",
}
_PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")


_EVENT = {
    "type": "object",
    "description": "A server-sent event; its data is JSON, or [DONE] at the end",
    "properties": {"data": {"type": "string"}},
}


def openapi(routes: Sequence[Route], *, root_path: str = "") -> dict[str, Any]:
    """The document, OpenAPI 3.1. root_path: where a proxy offers the server."""
    kinds = {kind for route in routes for kind in (route.body, route.reply, route.event) if kind is not None}
    ordered = [*sorted(kinds, key=lambda kind: kind.__name__), ErrorReply]
    refs, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schema = dict(zip(ordered, refs, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, schema)
    return {
        "openapi": "3.1.0",
        "info": {"title": "jaxpaged", "version": __version__, "description": "OpenAI's API, from an engine in JAX."},
        "servers": [{"url": root_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _operation(route: Route, path: str, schema: dict[type[Any], dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.reply is not None:
        content[route.content_type] = {"schema": schema[route.reply]}
    elif route.content_type != "application/json":
        content[route.content_type] = {"schema": {"type": "string"}}
    if route.event is not None:
        content["text/event-stream"] = {"schema": _EVENT}
    error = {"application/json": {"schema": schema[ErrorReply]}}
    responses: dict[str, Any] = {"200": {"description": "Done", **({"content": content} if content else {})}}
    for status in sorted({*route.statuses, 401}):
        told = content if status == 503 and route.tag == "Health" else error
        responses[str(status)] = {"description": _WHAT[status], "content": told}
    if route.tag == "Health":
        del responses["401"]
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__ + ("" if route.path != "/health" else "_short"),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": responses,
    }
    if route.tag == "Health":
        operation["security"] = []
    names = _PARAMETER.findall(path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema[route.body]}},
        }
    return operation
