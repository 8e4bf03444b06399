"""What is served, by which version, under which load: /v1/models, /version, /load, /server_info, /metrics."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from jaxpaged import __version__
from jaxpaged_server.api.tokens import LoadReply, ModelCard, ModelList, ServerInfoReply, VersionReply
from jaxpaged_server.refusals import ModelNotFoundError
from jaxpaged_server.reply import json_reply
from jaxpaged_server.services import Services, services_of, visible_key

_PRIVATE = frozenset(
    {
        *("api_key", "api_key_file", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "uds", "admin_socket"),
        *("profile_dir", "chat_template", "otlp_traces_endpoint", "kv_events_config", "host", "port"),
    }
)
"""Settings that /server_info keeps to itself: secrets, paths and addresses."""


async def list_models(request: web.Request) -> web.Response:
    """The names under which the model is served."""
    services = services_of(request)
    return json_reply(ModelList(data=[_card(services, name) for name in services.names]))


async def get_model(request: web.Request) -> web.Response:
    """One of them."""
    services, name = services_of(request), request.match_info["model"]
    if name not in services.names:
        raise ModelNotFoundError(name="model", value=name[:200], limit="it is not served here")
    return json_reply(_card(services, name))


def _card(services: Services, name: str) -> ModelCard:
    info = services.engine.info
    return ModelCard(
        id=name,
        created=services.created,
        root=services.names[0],
        max_model_len=None if info is None else info.max_model_len,
    )


async def version(request: web.Request) -> web.Response:
    """The server's version."""
    del request
    return json_reply(VersionReply(version=__version__))


async def load(request: web.Request) -> web.Response:
    """Requests in the server now, but for this one: an idle server's load is 0."""
    return json_reply(LoadReply(server_load=len(services_of(request).flights) - 1))


async def server_info(request: web.Request) -> web.Response:
    """What was chosen at the start, and why."""
    services = services_of(request)
    engine: dict[str, Any] = {}
    if (info := services.engine.info) is not None:
        engine = {name: value for name, value in msgspec.to_builtins(info).items() if name not in ("model", "table")}
    settings = msgspec.to_builtins(services.settings)
    server = {name: value for name, value in settings.items() if name not in _PRIVATE}
    return json_reply(ServerInfoReply(version=__version__, model=services.names[0], engine=engine, server=server))


async def metrics(request: web.Request) -> web.Response:
    """In Prometheus's text format, or OpenMetrics where it is asked for. Of other keys an ordinary one sees totals."""
    body, content_type = services_of(request).metrics.render(request.headers.get("Accept"), only=visible_key(request))
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
