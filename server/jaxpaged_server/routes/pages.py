"""The pages for people: `/` playground, `/status`, `/docs`, and the files they are made of.

The files are read once, from the package; no path of a request reaches the file system. What a page is made of lies
below an address that holds the hash of all of it, so a browser may keep it for ever, and never mixes two versions. The
pages hold no data: they ask the API for it, with the visitor's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import hdrs, web

PAGES = {"/": "playground.html", "/status": "status.html", "/docs": "docs.html"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CHECK = "no-cache"  # keep, but ask whether it is still so
_KEEP = "public, max-age=31536000, immutable"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_pages(app: web.Application) -> frozenset[str]:
    """Serve the pages; returns their paths, which hold no data and may be open where everything else asks for a key."""
    files = _read_files()
    folder = f"static/{_hash(b''.join(name.encode() + body for name, body in files.items()))}"
    routes: dict[str, Handler] = {}
    for path, name in PAGES.items():
        body = files[name].replace(b'"static/', f'"{folder}/'.encode())
        routes[path] = _handler(body, _type(name), _CHECK)
    for name, body in files.items():
        if name not in PAGES.values():
            routes[f"/{folder}/{name}"] = _handler(body, _type(name), _KEEP)
    for path, handler in routes.items():
        app.router.add_get(path, handler)
    return frozenset(routes)


def _read_files() -> dict[str, bytes]:
    """Every file of the static folder that has a type of ours, by name, in the order of the names."""
    folder = resources.files("jaxpaged_server") / "static"
    names = sorted(file.name for file in folder.iterdir() if _suffix(file.name) in _TYPES)
    return {name: (folder / name).read_bytes() for name in names}


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _type(name: str) -> str:
    return _TYPES[_suffix(name)]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _handler(body: bytes, content_type: str, cache: str) -> Handler:
    etag = _hash(body)
    headers = {**_HEADERS, hdrs.CACHE_CONTROL: cache, hdrs.CONTENT_TYPE: content_type}

    async def handle(request: web.Request) -> web.StreamResponse:
        known = request.if_none_match or ()
        fresh = any(tag.value in (etag, "*") for tag in known)
        response = web.Response(status=304) if fresh else web.Response(body=body)
        response.headers.update(headers)
        response.etag = etag
        return response

    return handle
