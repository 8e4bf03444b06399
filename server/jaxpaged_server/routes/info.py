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

_PUBLIC = frozenset(
    {
        *("served_model_name", "root_path", "allowed_origins", "response_role"),
        *("enable_ssl_refresh", "ssl_cert_reqs", "ssl_ciphers"),
        *("max_num_queued_reqs", "max_num_queued_tokens", "ttft_target_s", "max_body_bytes", "stream_interval"),
        *("request_timeout_s", "header_timeout_s", "body_timeout_s", "write_timeout_s", "keep_alive_s"),
        *("sse_keep_alive_interval", "shutdown_timeout", "drain_grace"),
        *("trust_request_chat_template", "default_chat_template_kwargs"),
        *("enable_log_requests", "disable_log_stats", "log_stats_interval", "log_level", "log_format"),
        *("kv_cache_metrics", "kv_cache_metrics_sample", "enable_mfu_metrics"),
        *("max_engine_restarts", "engine_hang_timeout_s"),
    }
)
"""Settings that /server_info tells. Secrets, paths and addresses are not, nor is any that nobody has put here."""


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
    server = {name: value for name, value in settings.items() if name in _PUBLIC}
    return json_reply(ServerInfoReply(version=__version__, model=services.names[0], engine=engine, server=server))


async def metrics(request: web.Request) -> web.Response:
    """In Prometheus's text format, or OpenMetrics where it is asked for. Of other keys an ordinary one sees totals."""
    body, content_type = services_of(request).metrics.render(request.headers.get("Accept"), only=visible_key(request))
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
