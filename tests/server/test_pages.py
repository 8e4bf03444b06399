"""How the pages are served, and what their files may hold. What they do in a browser: tests/pages."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from importlib import resources

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from jaxpaged_server.api.status import StatusReply, StatusRequest, status_pool
from jaxpaged_server.routes.pages import PAGES, add_pages
from page_status import busy, pool_of, starting

STATIC = resources.files("jaxpaged_server") / "static"
FILES = sorted(file.name for file in STATIC.iterdir() if file.is_file())
MAX_LINES = 400
Client = TestClient[web.Request, web.Application]


def text_of(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


@pytest.fixture
async def client(aiohttp_client: Callable[[web.Application], Awaitable[Client]]) -> Client:
    app = web.Application()
    add_pages(app)
    return await aiohttp_client(app)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_comes_with_its_headers(client: Client, path: str) -> None:
    reply = await client.get(path)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-cache"
    assert reply.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", PAGES)
async def test_all_that_a_page_names_is_there_and_may_be_kept_for_ever(client: Client, path: str) -> None:
    page = await (await client.get(path)).text()
    names = set(re.findall(r'(?:src|href)="(static/[^"]+)"', page))
    assert len(names) >= 4
    modules = {f"/{name}" for name in names}
    seen: set[str] = set()
    while modules:
        name = modules.pop()
        seen.add(name)
        reply = await client.get(name)
        assert reply.status == 200, name
        assert reply.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        if name.endswith(".js"):
            assert reply.headers["Content-Type"] == "text/javascript; charset=utf-8"
            folder = name.rpartition("/")[0]
            imports = re.findall(r'from "\./([^"]+)"', await reply.text())
            modules |= {f"{folder}/{each}" for each in imports} - seen
    assert len(seen) > 6


async def test_a_file_that_is_known_is_not_sent_again(client: Client) -> None:
    first = await client.get("/status")
    tag = first.headers["ETag"]
    again = await client.get("/status", headers={"If-None-Match": tag})
    assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", tag)
    other = await client.get("/status", headers={"If-None-Match": '"0000000000000000"'})
    assert (other.status, await other.read()) == (200, await first.read())


@pytest.mark.parametrize(
    "path",
    [
        "/static",
        "/static/",
        "/static/theme.js",
        "/static/{folder}",
        "/static/{folder}/",
        "/static/{folder}/../pages.py",
        "/static/{folder}/%2e%2e/%2e%2e/routes/pages.py",
        "/static/{folder}//etc/passwd",
        "/static/{folder}/playground.html",
        "/static/0123456789abcdef/theme.js",
        "/status/",
    ],
)
async def test_nothing_else_is_served(client: Client, path: str) -> None:
    page = await (await client.get("/")).text()
    found = re.search(r"static/([0-9a-f]{16})/theme\.js", page)
    assert found
    assert (await client.get(path.format(folder=found[1]))).status == 404


async def test_pages_are_only_read(client: Client) -> None:
    assert (await client.head("/")).status == 200
    assert (await client.post("/")).status == 405


def test_the_open_paths_are_the_files_and_nothing_more() -> None:
    app = web.Application()
    paths = add_pages(app)
    assert paths == {route.resource.canonical for route in app.router.routes() if route.resource}
    assert set(PAGES) < paths
    assert len(paths) == len(FILES)
    assert all(path in PAGES or re.fullmatch(r"/static/[0-9a-f]{16}/[a-z]+\.(js|css|svg)", path) for path in paths)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short_and_asks_nobody_else(name: str) -> None:
    text = text_of(name)
    assert text.count("\n") <= MAX_LINES
    addresses = set(re.findall(r"\b(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".html"))])
def test_no_text_becomes_code(name: str) -> None:
    text = text_of(name)
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert way not in text
    if name.endswith(".html"):  # the policy would stop these, and a browser complain of them
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", text)


def test_the_key_is_kept_by_the_tab_only() -> None:
    assert "sessionStorage" in text_of("api.js")
    assert [name for name in FILES if name.endswith(".js") and "localStorage" in text_of(name)] == [
        "settings.js",
        "theme.js",
    ]


@pytest.mark.parametrize("make", [busy, starting])
def test_a_status_reply_keeps_what_it_says(make: Callable[[], StatusReply]) -> None:
    reply = make()
    assert msgspec.json.decode(msgspec.json.encode(reply), type=StatusReply) == reply


def test_the_map_goes_out_as_runs_and_named_requests() -> None:
    pool = status_pool(pool_of([(7, 40, 39)], shared=1), block_size=16)
    assert pool.requests == [StatusRequest(id=7, tokens=40, computed=39, blocks=3)]
    sent = msgspec.json.decode(msgspec.json.encode(pool))
    assert sent["classes"] == [5, 3, 2, 4, [0, 508]]
    assert sent["owners"] == [-1, [0, 3], [-1, 508]]
    assert sent["requests"] == [{"id": 7, "tokens": 40, "computed": 39, "blocks": 3}]


def test_steps_go_out_as_arrays() -> None:
    sent = msgspec.json.decode(msgspec.json.encode(busy()))
    assert len(sent["steps"]) == 200
    assert len(sent["steps"][0]) == 9
    assert len(sent["latency"]["itl"][0]) == 2
