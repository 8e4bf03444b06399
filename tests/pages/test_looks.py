"""Every page in both themes and on a phone: nothing sticks out, all text can be read, and a screenshot to look at."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from page_status import busy
from page_stub import Stub
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
READABLE = 4.5  # WCAG 2.2, 1.4.3
VISIBLE = 3.0  # 1.4.11, for the edges of fields and what a drawing consists of
PAIRS = [
    *(
        ("--ink", back, READABLE)
        for back in ("--paper", "--surface", "--sunken", "--tint", "--bad-soft", "--accent-soft")
    ),
    *(("--soft", back, READABLE) for back in ("--paper", "--surface", "--sunken", "--tint", "--bad-soft")),
    *(
        (name, back, READABLE)
        for name in ("--accent", "--good", "--warn", "--bad")
        for back in ("--paper", "--surface")
    ),
    ("--on-accent", "--accent", READABLE),
    ("--line-strong", "--surface", VISIBLE),
    *((f"--class-{name}", "--surface", VISIBLE) for name in ("live", "cached", "null", "behind")),
]
COLOURS = """names => {
  const canvas = document.createElement('canvas'), context = canvas.getContext('2d', { willReadFrequently: true });
  const probe = document.createElement('i');
  document.body.append(probe);
  return Object.fromEntries(names.map((name) => {
    probe.style.color = `var(${name})`;
    context.fillStyle = getComputedStyle(probe).color;
    context.fillRect(0, 0, 1, 1);
    return [name, [...context.getImageData(0, 0, 1, 1).data].slice(0, 3)];
  }));
}"""


def contrast(first: list[int], second: list[int]) -> float:
    """The ratio of WCAG 2.2 between two sRGB colours."""

    def luminance(colour: list[int]) -> float:
        linear = [c / 12.92 if (c := byte / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for byte in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([118, 118, 118], [255, 255, 255]) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_can_be_read(open_page: OpenPage, theme: str) -> None:
    page = open_page(theme=theme)
    colours = page.evaluate(COLOURS, sorted({name for pair in PAIRS for name in pair[:2]}))
    low = {
        f"{front} on {back}": round(ratio, 2)
        for front, back, least in PAIRS
        if (ratio := contrast(colours[front], colours[back])) < least
    }
    assert not low


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
@pytest.mark.parametrize("path", ["/", "/status", "/docs"])
def test_a_page_fits(
    open_page: OpenPage, stub: Stub, keep: Callable[..., Any], path: str, size: str, theme: str
) -> None:
    stub.status = busy()
    stub.openapi = {"info": {"title": "A server"}, "paths": {f"/v1/{'x' * 60}": {"post": {"summary": "Long " * 30}}}}
    page = open_page(path, size=size, theme=theme)
    if path == "/":
        page.locator("#prompt").fill("word " * 60 + "x" * 200)
        page.locator("#send").click()
        expect(page.locator(".answer .actions")).to_be_visible()
    elif path == "/status":
        expect(page.locator("#requests tr")).to_have_count(14)
    else:
        page.locator(".operation > summary").click()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    outside = page.evaluate(
        """() => [...document.querySelectorAll('button, a, input, textarea, canvas, h1, h2')]
          .filter((e) => e.checkVisibility() && !e.closest('.skip, .sr') && !e.matches('.sr'))
          .filter((e) => { const box = e.getBoundingClientRect(); return box.left < -1 || box.right > innerWidth + 1; })
          .map((e) => e.id || e.textContent)"""
    )
    assert outside == []
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, .bar a')].filter((e) => e.checkVisibility())
          .map((e) => [e.textContent, e.getBoundingClientRect()]).filter(([, b]) => b.width < 24 || b.height < 24)
          .map(([text]) => text)"""
    )
    assert small == []  # WCAG 2.2, 2.5.8
    keep(page, f"{path.strip('/') or 'playground'}-{size}-{theme}")


def test_nothing_moves_for_those_who_ask_for_that(open_page: OpenPage, stub: Stub) -> None:
    stub.pace_s = 0.2
    page = open_page()  # with reduced motion
    page.locator("#prompt").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator(".answer.streaming")).to_be_visible()
    running = page.evaluate("document.getAnimations().map((each) => each.animationName)")
    assert running == []
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate("document.getAnimations().map((each) => each.animationName)") == ["blink"]


def test_every_control_has_a_name(open_page: OpenPage, stub: Stub) -> None:
    stub.status = busy()
    for path in ("/", "/status", "/docs"):
        page = open_page(path)
        page.wait_for_timeout(300)
        tree = page.locator("body").aria_snapshot()
        nameless = re.findall(
            r"^\s*- (?:button|link|textbox|checkbox|radio|slider|spinbutton|combobox)(?::| \[|$).*", tree, re.M
        )
        assert nameless == []
        assert page.locator("main").count() == 1
        assert page.locator("h1").count() == 1
