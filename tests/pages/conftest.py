"""Debian's Chromium, driven by Playwright, on pages of the stub server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page_stub import Stub, serving
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

CHROMIUM = os.environ.get("JAXPAGED_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
SIZES = {"desk": (1280, 860), "phone": (360, 740)}


@pytest.fixture(scope="module")  # not the session: Playwright keeps an event loop, which other tests must not meet
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        reason = f"no Chromium at {CHROMIUM}: `apt-get install chromium`, or set JAXPAGED_CHROMIUM"
        if os.environ.get("JAXPAGED_BROWSER_REQUIRED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=10_000)  # the machine may be busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as stub:
        yield stub


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, stub: Stub) -> Iterator[OpenPage]:
    """Opens a page of the stub in a fresh profile.

    At the end of the test: no error on the console but those that `expected` names, by status or by words, and no
    request to anywhere else.
    """
    contexts = []
    wrong: list[str] = []

    def open(
        path: str = "/", *, theme: str = "light", size: str = "desk", expected: tuple[int | str, ...] = ()
    ) -> Page:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if theme == "dark" else "light",
            reduced_motion="reduce",
            timezone_id="UTC",
        )
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()

        def on_console(message: ConsoleMessage) -> None:
            excused = any((f"status of {each}" if isinstance(each, int) else each) in message.text for each in expected)
            if message.type in ("error", "warning") and not excused:
                wrong.append(f"console: {message.text}")

        def on_request(request: Request) -> None:
            if not request.url.startswith(stub.url):
                wrong.append(f"asked {request.url}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: wrong.append(f"page: {error}"))
        page.on("request", on_request)
        page.goto(stub.url + path)
        return page

    yield open
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def keep(tmp_path: Path) -> Callable[[Page, str], Path]:
    """Saves a screenshot below $JAXPAGED_SCREENSHOTS, else in the test's folder."""
    folder = Path(os.environ.get("JAXPAGED_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def save(page: Page, name: str) -> Path:
        path = folder / f"{name}.png"
        page.screenshot(path=path)
        assert path.stat().st_size > 5_000, "an empty page"
        return path

    return save
