"""The status page in Chromium: the pool fills and empties, and every drawing says what it shows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from jaxpaged_server.api.status import StatusCompiles, StatusTotals
from page_status import busy, idle, starting
from page_stub import Stub
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
READS = ("willReadFrequently",)  # the browser's remark on a test that looks at the pixels
PAINTED = """canvas => {
  const { width, height } = canvas, found = {};
  const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
  for (let at = 0; at < data.length; at += 4)
    if (data[at + 3] === 255) {
      const colour = `rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`;
      found[colour] = (found[colour] ?? 0) + 1;
    }
  return found;
}"""
COLOUR = """name => {
  const probe = document.createElement('i');
  document.body.append(probe);
  probe.style.color = `var(--class-${name})`;
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}"""


def tile(page: Page, name: str) -> Locator:
    return page.locator("#tiles > div").filter(has=page.get_by_text(name, exact=True))


def painted(page: Page, name: str) -> int:
    """Pixels of the map in the colour of a class."""
    return page.locator("#pool canvas").evaluate(PAINTED).get(page.evaluate(COLOUR, name), 0)


def after_polls(page: Page, stub: Stub, polls: int) -> None:
    """Wait until the page has asked so often."""
    deadline = time.monotonic() + 15
    while stub.polls < polls:
        assert time.monotonic() < deadline, f"{stub.polls} polls, not {polls}"
        page.wait_for_timeout(50)


def test_the_pool_fills_and_empties(open_page: OpenPage, stub: Stub, keep: Callable[..., Any]) -> None:
    page = open_page("/status", expected=READS)
    legend = page.locator("#legend")
    empty = ["live0", "shared0", "tail0", "cached0", "free511", "null1"]
    expect(legend.locator("li")).to_have_text(empty)
    expect(page.get_by_text("No request is running.")).to_be_visible()
    expect(tile(page, "Pool in use")).to_contain_text("0 %")
    assert [painted(page, name) for name in ("live", "shared", "tail")] == [0, 0, 0]
    whole = painted(page, "free")
    keep(page, "pool-empty")
    stub.status = busy()
    expect(legend.locator("li")).to_have_text(["live200", "shared4", "tail14", "cached90", "free203", "null1"])
    expect(page.locator("#requests tr")).to_have_count(14)
    expect(tile(page, "Running")).to_contain_text("14of at most 32")
    expect(tile(page, "Waiting")).to_contain_text("9")
    expect(tile(page, "Pool in use")).to_contain_text("43 %")
    page.wait_for_timeout(100)  # a frame, to be painted
    square = whole / 511
    assert painted(page, "live") == pytest.approx(200 * square, rel=0.02)
    assert painted(page, "free") == pytest.approx(203 * square, rel=0.02)
    assert 0 < painted(page, "shared") < 4 * square
    assert 0 < painted(page, "tail") < 14 * square
    keep(page, "pool-full")
    stub.status = idle()
    expect(legend.locator("li")).to_have_text(empty)
    expect(page.locator("#requests tr:not(.nothing)")).to_have_count(0)
    page.wait_for_timeout(100)
    assert (painted(page, "live"), painted(page, "free")) == (0, whole)


def test_a_block_tells_whose_it_is(open_page: OpenPage, stub: Stub, keep: Callable[..., Any]) -> None:
    stub.status = busy()
    page = open_page("/status", expected=READS)
    expect(page.locator("#requests tr")).to_have_count(14)
    page.get_by_role("button", name="Pause").click()
    canvas, readout = page.locator("#pool canvas"), page.locator("#pool .readout")
    canvas.hover(position={"x": 5, "y": 5})
    expect(readout).to_have_text("Block 0 · null: where padding writes")
    canvas.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(readout).to_have_text(
        re.compile(r"^Block 1 · shared: holds a prefix of several requests · request 100: \d+ tokens in \d+ blocks$")
    )
    expect(page.locator("#pool [role=status]")).to_have_text(re.compile("^Block 1 · shared"))
    page.keyboard.press("End")
    expect(readout).to_have_text("Block 511 · free: holds nothing")
    page.keyboard.press("Escape")
    expect(readout).to_contain_text("Point at a block")
    assert canvas.get_attribute("aria-label") == (
        "Block pool, 512 blocks: 200 live, 4 shared, 14 tail, 90 cached, 203 free, 1 null. "
        "Arrow keys go from block to block."
    )
    by_class = painted(page, "live")
    page.get_by_label("Request", exact=True).check()
    assert painted(page, "live") == 0
    assert by_class > 0
    keep(page, "pool-requests")
    page.get_by_label("Class").check()
    page.locator("#requests button").first.focus()
    assert painted(page, "live") < by_class / 5  # the other requests' blocks have faded
    page.locator("#requests button").first.blur()
    assert painted(page, "live") == by_class


def test_requests_and_queue_are_listed(open_page: OpenPage, stub: Stub) -> None:
    stub.status = busy()
    page = open_page("/status")
    rows = page.locator("#requests tr")
    expect(rows).to_have_count(14)
    expect(rows.last.locator("td")).to_have_text(["113", "prefill", "900", "512", "57"])
    expect(rows.first.locator("td").nth(1)).to_have_text("decode")
    expect(page.locator("#queue tr td")).to_have_text(["research", "6", "web", "3"])
    rows.last.locator("button").focus()
    after_polls(page, stub, stub.polls + 3)
    expect(rows.last.locator("button")).to_be_focused()  # a new reply does not take the focus away


def test_steps_are_split_by_phase(open_page: OpenPage, stub: Stub) -> None:
    stub.status = busy()
    page = open_page("/status")
    expect(page.locator("#steps-legend li")).to_have_text(
        [re.compile(rf"^{name}[\d.,]+( %)?$") for name in ("plan", "pack", "execute", "wait", "commit")]
        + [re.compile(r"^tokens[\d,]+$"), re.compile(r"^padding[\d,]+$")]
    )
    page.locator("#steps canvas").focus()
    page.keyboard.press("End")
    readout = page.locator("#steps .readout")
    expect(readout).to_have_text(
        re.compile(
            r"^\d\d:\d\d:\d\d · \d+ rows, \d+ tokens and \d+ of padding · [\d.]+ ms: plan 400 µs, pack 300 µs, execute"
        )
    )
    before = readout.inner_text()
    page.keyboard.press("ArrowLeft")
    assert readout.inner_text() != before


def test_latencies_have_quantiles(open_page: OpenPage, stub: Stub) -> None:
    now = idle().at
    latency = msgspec.structs.replace(
        idle().latency,
        ttft=[(now - 400, 9.0)] + [(now - 60 + at, 0.1) for at in range(40)],  # the first is too old to count
        itl=[(now - 100 + at, 0.010 if at % 50 else 0.110) for at in range(100)],
    )
    stub.status = msgspec.structs.replace(idle(), latency=latency)
    page = open_page("/status")
    expect(page.locator("#ttft-now")).to_have_text("p50 100 ms · p99 100 ms · 40 samples")
    expect(page.locator("#itl-now")).to_have_text("p50 10.0 ms · p99 110 ms · 100 samples")
    page.locator("#itl > canvas").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#itl .readout")).to_have_text(
        re.compile(r"^\d\d:\d\d:\d\d · p50 10.0 ms, p99 [\d.]+ ms · \d+ samples$")
    )


def test_throughput_comes_from_the_totals(open_page: OpenPage, stub: Stub) -> None:
    page = open_page("/status")
    expect(tile(page, "Generated tokens/s")).to_contain_text("0.0")
    start = msgspec.structs.replace(idle(), totals=StatusTotals())
    for at in range(30):
        totals = StatusTotals(prompt_tokens=100 * at, generation_tokens=50 * at)
        stub.status = msgspec.structs.replace(start, totals=totals)
        page.wait_for_timeout(100)
    text = page.locator("#rate-now").inner_text()
    found = re.fullmatch(r"generated ([\d,.]+) /s · prompt ([\d,.]+) /s", text)
    assert found, text
    generated, prompt = (float(each.replace(",", "")) for each in found.groups())
    assert 100 < generated < 600
    assert prompt == pytest.approx(2 * generated, rel=0.01)
    stub.status = start  # a new engine: no rate is known, least of all one below zero
    expect(tile(page, "Generated tokens/s").locator(".value")).to_have_text(re.compile(r"^(–|0\.0)$"))


def test_memory_is_set_beside_whole_contexts(open_page: OpenPage, stub: Stub) -> None:
    stub.status = busy()
    page = open_page("/status")
    expect(page.locator("#waste-now")).to_have_text("waste 3.2 %")
    expect(page.locator("#waste")).to_contain_text("3,488 slots, 3.2 % without a token")
    expect(page.locator("#waste")).to_contain_text("28,672 slots, 86.7 % without a token")


def test_a_compile_after_ready_is_logged(open_page: OpenPage, stub: Stub) -> None:
    page = open_page("/status")
    log = page.locator("#compiles")
    expect(log).to_contain_text("24at start")
    expect(log).to_contain_text("as it should be")
    stub.status = msgspec.structs.replace(idle(), compiles=StatusCompiles(at_start=24, after_ready=1))
    expect(log.locator(".events li").first).to_contain_text("1 after ready: a step had a shape that was not prepared")
    expect(log.locator(".events li")).to_have_count(2)
    expect(log).to_contain_text("should be 0")


def test_the_start_is_followed(open_page: OpenPage, stub: Stub, keep: Callable[..., Any]) -> None:
    stub.status = starting()
    page = open_page("/status")
    expect(page.get_by_text("compiling 7 of 24, about 12 s left")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "29")
    expect(page.locator("#pool")).to_be_hidden()
    keep(page, "status-start")
    stub.status = idle()
    expect(page.locator("#pool")).to_be_visible()
    expect(page.locator("#start")).to_be_hidden()
    expect(page.locator("#phase")).to_have_text("ready")


def test_an_engine_too_busy_to_draw_its_pool_leaves_the_last_one(open_page: OpenPage, stub: Stub) -> None:
    stub.status = busy()
    page = open_page("/status")
    expect(page.locator("#requests tr")).to_have_count(14)
    stub.status = msgspec.structs.replace(busy(), pool=None, waiting=10)
    expect(tile(page, "Waiting")).to_contain_text("10")
    expect(page.locator("#requests tr")).to_have_count(14)
    expect(page.locator("#legend li").first).to_have_text("live200")


def test_a_hidden_page_asks_seldom(open_page: OpenPage, stub: Stub) -> None:
    page = open_page("/status")
    page.wait_for_timeout(2200)
    assert 2 <= stub.polls <= 6
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })")
    page.wait_for_timeout(1200)
    before = stub.polls
    page.wait_for_timeout(1500)
    assert stub.polls == before
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    after_polls(page, stub, before + 2)


def test_a_lost_server_is_said_and_found_again(open_page: OpenPage) -> None:
    page = open_page("/status", expected=("ERR_FAILED",))
    expect(page.locator("#phase")).to_have_text("ready")
    page.route("**/status.json", lambda route: route.abort())
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    expect(page.locator("#phase")).to_have_text("no answer")
    page.unroute("**/status.json")
    expect(page.locator("#phase")).to_have_text("ready")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_status_is_behind_the_key(open_page: OpenPage, stub: Stub) -> None:
    stub.key = "sesame"
    page = open_page("/status", expected=(401,))
    page.get_by_label("Key, kept in this tab only").fill("sesame")
    page.keyboard.press("Enter")
    expect(page.locator("#phase")).to_have_text("ready")
    page.get_by_role("link", name="Playground").click()
    expect(page.locator("#model")).to_have_value("tiny-stories")  # the tab keeps the key


def test_an_ordinary_key_is_told_what_it_does_not_see(open_page: OpenPage, stub: Stub) -> None:
    page = open_page("/status")
    expect(page.locator("#phase")).to_have_text("ready")
    expect(page.locator("#scope")).to_be_hidden()
    stub.status = msgspec.structs.replace(idle(), scope="key", pool=None)
    expect(page.locator("#scope")).to_contain_text("admin: true")


def test_a_pool_with_more_blocks_than_there_is_room_for_is_drawn(open_page: OpenPage, stub: Stub) -> None:
    pool = idle().pool
    assert pool
    many = 200_000
    classes = [5, (2, 100_000), (0, many - 100_001)]
    wide = msgspec.structs.replace(pool, classes=classes, owners=[(-1, many)])
    stub.status = msgspec.structs.replace(idle(), pool=wide)
    page = open_page("/status")
    expect(page.locator("#legend li").first).to_have_text("live100,000")
    canvas = page.locator("#pool canvas")
    canvas.focus()
    page.keyboard.press("End")
    expect(page.locator("#pool .readout")).to_have_text(re.compile(r"^Blocks [\d]+ to 199999, shown [\d]+ · free"))
    box = canvas.bounding_box()
    assert box
    assert box["height"] < 400
    assert painted(page, "live") > 1000
