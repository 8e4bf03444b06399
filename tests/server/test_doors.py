"""Who may come in, by which door: keys, origins, methods, bodies. Each case that others were caught by is here by name
(AUTH, CSRF, BOMB, LEN, PATH, ERR of the advisories that hit servers of this kind)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import zlib
from typing import Any

import pytest
from aiohttp import ClientError
from jaxpaged_server.access.keys import Keys
from jaxpaged_server.middleware import OPEN_PATHS
from jaxpaged_server.routes.table import ROUTES
from served import Served, served
from yarl import URL

KEY = "sk-the-right-one-0123456789"
PATH = "/v1/completions"


def keys() -> Keys:
    return Keys(plain=[KEY])


async def status_of(it: Served, method: str, path: str, **kwargs: Any) -> int:
    url = URL(f"{str(it.url).rstrip('/')}{path}", encoded=True)  # as it is: two slashes stay two
    async with it.client.request(method, url, **kwargs) as response:
        return response.status


async def test_auth_every_path_but_the_health_ones_asks_for_a_key() -> None:
    plain = [re.sub(r"\{[^}]*\}", "tiny", route.path) for route in ROUTES]
    pages = ["/", "/status", "/docs", "/openapi.json"]
    variants = ["/nothing", "/v1/completions/", "//v1/completions", "/V1/completions", "/v1/%63ompletions", "/metrics/"]
    variants += ["/health/../v1/models", "/health/live/", "/health//live", "/%68ealth", "/health?x=/v1", "/.", "/*"]
    opened: set[str] = set()
    async with served(keys=keys()) as it:
        for path in [*plain, *pages, *variants]:
            for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
                status = await status_of(it, method, path)
                if status != 401:
                    opened.add(path)
        assert opened == OPEN_PATHS | {"/health?x=/v1", "/%68ealth"}  # the same path, written otherwise
        for name, value in (("Host", "localhost"), ("X-Forwarded-For", "127.0.0.1"), ("X-Original-URL", "/health")):
            assert await status_of(it, "GET", "/v1/models", headers={name: value}) == 401


async def test_auth_takes_the_key_in_the_forms_that_clients_send_it() -> None:
    import base64

    basic = base64.b64encode(f"anyone:{KEY}".encode()).decode()
    good = [
        {"Authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY},
        {"api-key": KEY},
        {"Authorization": f"Basic {basic}"},
    ]
    bad: list[dict[str, str]] = [
        {},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(KEY.encode()).decode()},
        {"x-api-key": ""},
    ]
    async with served(keys=keys()) as it:
        for headers in good:
            assert await status_of(it, "GET", "/v1/models", headers=headers) == 200, headers
        for headers in bad:
            async with it.client.get("/v1/models", headers=headers) as response:
                assert response.status == 401, headers
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                body = await response.text()
                assert KEY not in body
                assert json.loads(body)["error"]["type"] == "authentication_error"


async def test_a_browser_is_asked_for_the_key_by_its_own_means() -> None:
    async with served(keys=keys()) as it, it.client.get("/", headers={"Accept": "text/html"}) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Basic realm=")


async def test_err_bodies_tell_no_path_address_or_traceback() -> None:
    async with served() as it:

        def broken(accept: str | None) -> tuple[bytes, str]:
            raise RuntimeError(f"{accept} of /etc/secret at {hex(id(it))}")

        it.services.metrics.render = broken  # type: ignore[method-assign]
        async with it.client.get("/metrics") as response:
            body, status = await response.text(), response.status
    assert status == 500
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert not re.search(r"/[a-z]+/|0x[0-9a-f]+|Traceback|Error\b.*line", body), body


async def test_err_a_long_value_is_not_echoed_whole() -> None:
    async with served() as it:
        status, reply = await it.post(PATH, prompt="a", stop="x" * 5000)
        assert status == 400
        assert len(reply["error"]["message"]) < 600
        status, reply = await it.post(PATH, **{"prompt": "a", "y" * 5000: 1})
        assert len(reply["error"]["message"]) < 600
        status, reply = await it.post(PATH, prompt="a", model="\x1b[31m\r\nx" * 40)
        assert reply["error"]["message"].isprintable()


async def test_methods_and_paths_that_there_are_not() -> None:
    async with served() as it:
        async with it.client.get(PATH) as response:
            assert response.status == 405
            assert response.headers["Allow"] == "POST"
            assert (await response.json())["error"]["type"] == "invalid_request_error"
        for path in (
            "/v1",
            "/v2/models",
            "/v1/models/other",
            "/v1/models/../models",
            "/v1/models/%2e%2e/x",
            "/v1/models/a%00",
        ):
            async with it.client.get(path) as response:
                assert response.status in (404, 200 if path.endswith("/../models") else 404), path
        assert await status_of(it, "GET", "/v1/models/tiny") == 200


async def test_every_response_has_an_id_of_the_request() -> None:
    async with served() as it:
        for given, kept in (("abc-1.2:3_4", True), ("a b", False), ("x" * 129, False), ("", False)):
            async with it.client.get("/v1/models", headers={"X-Request-Id": given}) as response:
                told = response.headers["X-Request-Id"]
                assert (told == given) is kept
                assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", told)
                assert response.headers["Server"] == "jaxpaged"


@pytest.mark.parametrize(
    ("path", "prefix", "body"),
    [
        ("/v1/completions", "cmpl-", {"prompt": [1]}),
        ("/v1/chat/completions", "chatcmpl-", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_replys_id_holds_the_requests(path: str, prefix: str, body: dict[str, Any], stream: bool) -> None:
    async with served() as it:

        async def told(header: str | None, **more: Any) -> tuple[str, str]:
            """The reply's id without its prefix, and the header's."""
            asked = {**body, "max_tokens": 1, "stream": stream, **more}
            headers = {} if header is None else {"X-Request-Id": header}
            async with it.client.post(path, json=asked, headers=headers) as response:
                assert response.status == 200
                text = await response.text()
                ids = set(re.findall(r'"id":"([^"]+)"', text))
                assert len(ids) == 1
                found = ids.pop()
                assert found.startswith(prefix)
                return found.removeprefix(prefix), response.headers["X-Request-Id"]

        assert await told("run-7.a:b") == ("run-7.a:b", "run-7.a:b")
        assert await told("run-7", request_id="field") == ("run-7", "run-7")
        assert (await told(None, request_id="field"))[0] == "field"
        assert (await told('a"b', request_id="field"))[0] == "field"
        for header in (None, 'a"b', "x" * 129):
            own, answered = await told(header)
            assert own == answered, "the log knows it by the same id"
            assert re.fullmatch(r"[0-9a-f]{32}", own)


async def test_csrf_bodies_are_json_by_type_and_come_from_no_other_site() -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 1})
    async with served() as it:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"):
            assert await status_of(it, "POST", PATH, data=body, headers={"Content-Type": kind}) == 415
        own = str(it.url).rstrip("/")
        json_type = {"Content-Type": "application/json"}
        for origin, status in (
            (own, 200),
            ("http://evil.example", 403),
            ("null", 403),
            (own.replace("127.0.0.1", "localhost"), 403),
        ):
            assert await status_of(it, "POST", PATH, data=body, headers={**json_type, "Origin": origin}) == status
        rebound = {"Origin": "http://evil.example:8000", "Host": "evil.example:8000"}
        assert await status_of(it, "POST", PATH, data=body, headers={**json_type, **rebound}) == 403
        async with it.client.get("/v1/models") as response:
            assert "Access-Control-Allow-Origin" not in response.headers


async def test_csrf_a_name_that_only_points_here_reads_nothing_either() -> None:
    """DNS rebinding: a page sends no Origin with what it reads from its own site."""
    rebound = {"Host": "evil.example:8000"}
    async with served() as it:
        for path in ("/v1/models", "/status.json", "/metrics", "/tokenizer_info", "/docs", "/"):
            assert await status_of(it, "GET", path, headers=rebound) == 403, path
            for host in (f"localhost:{it.url.port}", "127.0.0.1", "127.9.9.9:1", "[::1]:8000"):
                assert await status_of(it, "GET", path, headers={"Host": host}) == 200, host
        assert await status_of(it, "GET", "/health/ready", headers=rebound) == 200, "probes ask by any name"
    async with served(allowed_origins=("https://proxied.example",)) as it:
        assert await status_of(it, "GET", "/v1/models", headers={"Host": "proxied.example"}) == 200
        assert await status_of(it, "GET", "/v1/models", headers=rebound) == 403
    otherwise: tuple[dict[str, Any], ...] = (
        {"keys": keys()},
        {"host": "0.0.0.0"},
        {"uds": "s"},
        {"allowed_origins": "*"},
    )
    for settings in otherwise:
        async with served(**settings) as it:
            headers = {**rebound, "Authorization": f"Bearer {KEY}"}
            assert await status_of(it, "GET", "/v1/models", headers=headers) == 200, settings


async def test_csrf_an_origin_or_a_host_that_is_no_url_is_refused() -> None:
    own = {"Origin": "http://localhost", "Host": "localhost"}
    async with served() as it:
        assert await status_of(it, "GET", "/v1/models", headers=own) == 200
        for wrong in ("http://[", "http://]", "[", "http://[::1", "http://a:b:c", "http://\u2100"):
            for name in ("Origin", "Host"):
                value = wrong if name == "Origin" else wrong.removeprefix("http://")
                assert await status_of(it, "GET", "/v1/models", headers={**own, name: value}) == 403, (name, wrong)


async def test_cors_is_off_until_an_origin_is_allowed() -> None:
    origin = "https://app.example"
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with served() as it:
        assert await status_of(it, "OPTIONS", PATH, headers=preflight) == 403
    async with served(keys=keys(), allowed_origins=(origin,)) as it:
        async with it.client.options(PATH, headers=preflight) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == origin
        headers = {"Origin": origin, "Authorization": f"Bearer {KEY}"}
        async with it.client.post(PATH, json={"prompt": "a", "max_tokens": 1}, headers=headers) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == origin
        assert await status_of(it, "OPTIONS", PATH, headers={**preflight, "Origin": "https://other.example"}) == 403
        assert await status_of(it, "OPTIONS", PATH, headers={"Origin": origin}) == 401


async def test_len_a_body_above_the_cap_is_cut_before_it_is_parsed() -> None:
    async with served(max_body_bytes=10_000) as it:
        status, reply = await it.post(PATH, prompt="a" * 20_000)
        assert status == 413
        assert reply["error"]["type"] == "invalid_request_error"
        assert "10000 bytes" in reply["error"]["message"], "a client must learn how much it may send"
        for path in ("/tokenize", "/detokenize", "/v1/chat/completions"):
            async with it.client.post(
                path, data=b"[" * 20_000, headers={"Content-Type": "application/json"}
            ) as response:
                assert response.status == 413


async def test_bomb_compressed_bodies_are_not_taken() -> None:
    bomb = zlib.compress(b" " * 50_000_000)
    async with served() as it:
        for encoding in ("deflate", "gzip", "br", "zstd", "identity, deflate"):
            headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
            began = time.monotonic()
            status = await status_of(it, "POST", PATH, data=bomb, headers=headers)
            assert status in (400, 415), encoding
            assert time.monotonic() - began < 1


async def test_a_body_that_does_not_come_is_cut() -> None:
    async def slowly() -> Any:
        yield b'{"prompt": "a"'
        await asyncio.sleep(5)
        yield b"}"

    async with served(body_timeout_s=0.2) as it:
        began = time.monotonic()
        with contextlib.suppress(ClientError):  # it may be cut before the reply is read
            async with it.client.post(PATH, data=slowly(), headers={"Content-Type": "application/json"}) as response:
                assert response.status == 400
        assert time.monotonic() - began < 3


async def test_load_is_told_where_a_gateway_asks() -> None:
    async with served() as it:
        headers = {"endpoint-load-metrics-format": "TEXT"}
        async with it.client.post(PATH, json={"prompt": "a", "max_tokens": 1}, headers=headers) as response:
            assert response.headers["endpoint-load-metrics"].startswith("TEXT ")
        async with it.client.post(PATH, json={"prompt": "a", "max_tokens": 1}) as response:
            assert "endpoint-load-metrics" not in response.headers


async def test_load_counts_the_requests_that_are_served_now() -> None:
    from scripted_engine import ScriptedEngine, ScriptedStream

    go = asyncio.Event()

    async def pace(stream: ScriptedStream) -> int:
        await go.wait()
        return 1

    async def load() -> int:
        async with it.client.get("/load") as response:
            return (await response.json())["server_load"]

    async with served(ScriptedEngine(pace)) as it:
        assert await load() == 0
        tasks = [asyncio.create_task(it.post(PATH, prompt="a", max_tokens=1)) for _ in range(3)]
        while len(it.engine.live) < 3:
            await asyncio.sleep(0.01)
        assert await load() == 3
        go.set()
        assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 3
        assert await load() == 0


async def test_a_queue_that_is_full_says_when_to_come_again() -> None:
    from scripted_engine import ScriptedEngine, ScriptedStream

    async def pace(stream: ScriptedStream) -> int:
        await asyncio.sleep(0.02)
        return 1

    async with served(ScriptedEngine(pace), max_num_queued_reqs=2) as it:

        async def one() -> tuple[int, str | None]:
            async with it.client.post(PATH, json={"prompt": "a", "max_tokens": 5}) as response:
                await response.read()
                return response.status, response.headers.get("Retry-After")

        found = await asyncio.gather(*(one() for _ in range(30)))
    refused = [retry for status, retry in found if status == 429]
    assert len(refused) == 30 - (8 + 2) - 2
    assert all(retry is not None and 1 <= int(retry) <= 60 for retry in refused)
