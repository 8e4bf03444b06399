"""The applications, the public one and the operator's: routes, one middleware, and the services behind them."""

from __future__ import annotations

import msgspec
from aiohttp import web

from jaxpaged_server.connections import Connections
from jaxpaged_server.middleware import make_middleware, on_prepare
from jaxpaged_server.openapi import openapi
from jaxpaged_server.routes.admin import ADMIN_ROUTES, ADMIN_VIEWS
from jaxpaged_server.routes.pages import add_pages
from jaxpaged_server.routes.table import ROUTES
from jaxpaged_server.services import SERVICES, Services


def make_app(services: Services, connections: Connections) -> web.Application:
    """The application that clients reach."""
    app = _application(services, connections, guarded=True)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.handler)
    document = msgspec.json.encode(openapi(ROUTES, root_path=services.settings.root_path))

    async def openapi_document(request: web.Request) -> web.Response:
        del request
        return web.Response(body=document, content_type="application/json")

    app.router.add_route("GET", "/openapi.json", openapi_document)
    add_pages(app)
    return app


def make_admin_app(services: Services, connections: Connections) -> web.Application:
    """The operator's application, for a Unix socket that only they can open."""
    app = _application(services, connections, guarded=False)
    for path, handler in ADMIN_ROUTES:
        app.router.add_route("POST", path, handler)
    for path, handler in ADMIN_VIEWS:
        app.router.add_route("GET", path, handler)
    return app


def _application(services: Services, connections: Connections, *, guarded: bool) -> web.Application:
    app = web.Application(
        middlewares=[make_middleware(connections, guarded=guarded)],
        client_max_size=services.settings.max_body_bytes,
    )
    app[SERVICES] = services
    app.on_response_prepare.append(on_prepare)
    return app
