"""The playground when the server says no: keys, queues, starts, and streams that break."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from page_stub import Refusal, Stub
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def send(page: Page, text: str = "Hello") -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def expect_answer(page: Page) -> None:
    expect(page.locator(".answer:not(.streaming) .text")).to_have_text("A block holds sixteen tokens.")
    expect(page.locator(".trouble")).to_have_count(0)


def test_a_key_is_asked_for(open_page: OpenPage, stub: Stub, keep: Callable[..., Any]) -> None:
    stub.key = "sesame"
    page = open_page(expected=(401,))
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("no or a wrong API key")
    expect(trouble).to_contain_text("401 · invalid_request_error · invalid_api_key")
    trouble.get_by_role("button", name="Enter key").click()
    page.get_by_label("Key, kept in this tab only").fill("wrong")
    page.keyboard.press("Enter")
    expect(trouble).to_contain_text("no or a wrong API key")
    trouble.get_by_role("button", name="Enter key").click()
    keep(page, "key")
    page.get_by_label("Key, kept in this tab only").fill("sesame")
    page.get_by_role("button", name="Use").click()
    expect(page.locator("#model")).to_have_value("tiny-stories")
    send(page)
    expect_answer(page)
    assert page.evaluate("JSON.stringify(sessionStorage)") == '{"jaxpaged.key":"sesame"}'
    assert "sesame" not in page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
    page.get_by_role("button", name="API key: set").click()
    page.get_by_role("button", name="Forget").click()
    expect(page.get_by_role("alert")).to_contain_text("A key is needed")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_that_ends_in_the_middle_is_asked_for_again(open_page: OpenPage, stub: Stub) -> None:
    page = open_page(expected=(401,))
    expect(page.locator("#model")).to_have_value("tiny-stories")
    stub.key = "sesame"
    send(page)
    page.get_by_role("alert").get_by_role("button", name="Enter key").click()
    page.get_by_label("Key, kept in this tab only").fill("sesame")
    page.keyboard.press("Enter")
    expect_answer(page)


def test_a_full_queue_counts_down(open_page: OpenPage, stub: Stub, keep: Callable[..., Any]) -> None:
    message = "the queue holds 64 requests, and 64 is the limit; try again in 3 s"
    stub.refusals = [Refusal(status=429, message=message, type="rate_limit_error", code="queue_full", retry_after="3")]
    page = open_page(expected=(429,))
    send(page)
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text(message)
    expect(trouble).to_contain_text("429 · rate_limit_error · queue_full")
    again = trouble.get_by_role("button")
    expect(again).to_be_disabled()
    expect(again).to_have_text(re.compile("^Try again in [123] s$"))
    keep(page, "queue")
    expect(again).to_be_enabled()
    expect(again).to_have_text("Try again")
    again.click()
    expect_answer(page)
    assert len(stub.bodies) == 2


def test_a_refusal_names_its_field(open_page: OpenPage, stub: Stub) -> None:
    stub.refusals = [Refusal(status=400, message="top_k is -3: it must be at least 0", param="top_k")]
    page = open_page(expected=(400,))
    send(page)
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("top_k is -3: it must be at least 0")
    expect(trouble).to_contain_text("param: top_k")
    expect(page.locator(".question .text")).to_have_text("Hello")


def test_a_server_that_starts_again_is_waited_for(open_page: OpenPage, stub: Stub) -> None:
    page = open_page(expected=(503,))
    expect(page.locator("#model")).to_have_value("tiny-stories")
    stub.refusals = [Refusal(status=503, message="the engine starts again", type="server_error")]
    stub.start = [{"phase": "compiling", "done": 7, "total": 24, "left_s": 12.0}] * 3
    send(page)
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("compiling 7 of 24, about 12 s left")
    expect(trouble.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "29")
    again = trouble.get_by_role("button", name="Try again")
    expect(again).to_be_enabled()
    again.click()
    expect_answer(page)


def test_a_page_opened_while_the_server_starts_shows_how_far_it_is(
    open_page: OpenPage, stub: Stub, keep: Callable[..., Any]
) -> None:
    stub.start = [{"phase": "loading", "done": 61_000, "total": 100_000, "left_s": None}] * 4
    page = open_page(expected=(503,))
    expect(page.get_by_text("loading, 61 %")).to_be_visible()
    keep(page, "start")
    expect(page.locator("#model")).to_have_value("tiny-stories")
    send(page)
    expect_answer(page)


def test_a_paused_server_says_so(open_page: OpenPage, stub: Stub) -> None:
    stub.start = [{"phase": "paused", "detail": "an operator has paused the server"}] * 4
    page = open_page(expected=(503,))
    expect(page.get_by_text("paused: an operator has paused the server")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_count(0)
    expect(page.locator("#model")).to_have_value("tiny-stories")


def test_an_error_in_the_stream_keeps_what_came_before(open_page: OpenPage, stub: Stub) -> None:
    stub.break_with = Refusal(status=500, message="the engine was restarted; send it again", type="server_error")
    page = open_page()
    send(page)
    expect(page.get_by_role("alert")).to_contain_text("the engine was restarted; send it again")
    expect(page.locator(".answer .text")).to_have_text("A block holds sixteen tokens.")
    expect(page.locator(".answer .foot")).to_contain_text("broken off")
    stub.break_with = None
    page.get_by_role("button", name="Try again").click()
    expect_answer(page)


def test_a_stream_without_an_end_is_not_taken_for_whole(open_page: OpenPage, stub: Stub) -> None:
    stub.end_early = True
    page = open_page()
    send(page)
    expect(page.get_by_role("alert")).to_contain_text("ended before the answer was whole")
    expect(page.locator(".answer .foot")).to_contain_text("broken off")


def test_a_server_that_does_not_answer_is_named(open_page: OpenPage, stub: Stub) -> None:
    page = open_page(expected=("ERR_FAILED",))
    expect(page.locator("#model")).to_have_value("tiny-stories")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    send(page)
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    expect_answer(page)


def test_max_tokens_is_said_where_it_cut_the_answer(open_page: OpenPage, stub: Stub) -> None:
    stub.finish = "length"
    page = open_page()
    send(page)
    expect(page.locator(".answer .foot")).to_contain_text("cut at max tokens")
