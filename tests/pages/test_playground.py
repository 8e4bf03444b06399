"""The playground in Chromium: what is sent, what is shown, and that text stays text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from page_stub import Stub, Token, words
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
CODE = 'Blocks of a request:\n\n```python\nn = -(-tokens // size)\n```\nThat is <b>all</b> & "more".'
RIVALS = [
    Token(text="One", probability=0.97, rivals={"One": 0.97, "A": 0.02}),
    Token(text=" block", probability=0.3, rivals={" page": 0.6, " block": 0.3}),
    Token(text=" more", probability=0.05, rivals={" less": 0.9}),
]


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answered(page: Page, turn: int = 1) -> Any:
    """The answer of a turn, once it is whole."""
    answer = page.locator(f".turn:nth-child({turn}) .answer:not(.streaming)")
    expect(answer).to_be_visible()
    return answer


def test_a_chat_streams(open_page: OpenPage, stub: Stub, keep: Callable[..., Any]) -> None:
    page = open_page()
    expect(page.locator("#model")).to_have_value("tiny-stories")
    send(page, "What is a block?")
    answer = answered(page)
    expect(answer.locator(".text")).to_have_text("A block holds sixteen tokens.")
    foot = answer.locator(".foot")
    for part in ("5 tokens", "tokens/s", "TTFT", "prompt 17 (16 cached)"):
        expect(foot).to_contain_text(part)
    expect(page.locator("#announce")).to_have_text("Answer ended, 5 tokens.")
    send(page, "And a pool?")
    answered(page, 2)
    first, second = stub.bodies
    assert first == {
        "model": "tiny-stories",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": 0.7,
        "top_p": 0.95,
        "max_tokens": 256,
        "messages": [{"role": "user", "content": "What is a block?"}],
    }
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"] == "A block holds sixteen tokens."
    keep(page, "chat")


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_text_comes_whole_however_the_stream_is_cut(open_page: OpenPage, stub: Stub, cut: int) -> None:
    text = "Grüße, 世界 🙂 1 < 2"
    stub.answer, stub.cut = words(text), cut
    page = open_page()
    send(page, "Hello")
    expect(answered(page).locator(".text")).to_have_text(text)


def test_an_answer_is_text_and_never_html(open_page: OpenPage, stub: Stub) -> None:
    hostile = "<img src=x onerror=alert(1)><script>document.title='owned'</script><a href='javascript:1'>x</a>"
    stub.answer = words(hostile)
    page = open_page()
    send(page, hostile)
    answer = answered(page)
    assert answer.locator(".text").inner_text() == hostile
    assert page.locator(".question .text").inner_text() == hostile
    assert page.locator(".turn :is(img, script, a)").count() == 0
    assert page.title() == "tiny-stories · jaxpaged"


def test_code_fences_are_shown_as_code(open_page: OpenPage, stub: Stub) -> None:
    stub.answer = words(CODE)
    page = open_page()
    send(page, "Code, please")
    answer = answered(page)
    assert answer.locator("pre code").inner_text() == "n = -(-tokens // size)"
    expect(answer.locator("pre .language")).to_have_text("python")
    assert answer.locator(".text > span").last.inner_text() == 'That is <b>all</b> & "more".'


@pytest.mark.parametrize("way", ["button", "escape"])
def test_a_stream_is_stopped(open_page: OpenPage, stub: Stub, way: str) -> None:
    stub.answer, stub.pace_s = words("on and on " * 400), 0.01
    page = open_page()
    send(page, "Never stop")
    expect(page.locator(".answer .text")).to_contain_text("on and on")
    expect(page.locator("#send")).to_have_text("Stop")
    page.locator("#send").click() if way == "button" else page.keyboard.press("Escape")
    foot = answered(page).locator(".foot")
    expect(foot).to_contain_text("stopped")
    expect(page.locator("#send")).to_have_text("Send")
    assert stub.cancelled.wait(5), "the server was not told"
    assert len(page.locator(".answer .text").inner_text()) < 4000


def test_a_raw_prompt_is_continued(open_page: OpenPage, stub: Stub, keep: Callable[..., Any]) -> None:
    stub.answer = words(" there was a block.")
    page = open_page()
    page.get_by_label("Completion").check()
    prompt = page.get_by_label("Raw prompt")
    prompt.fill("Once upon a time")
    prompt.press("Enter")
    assert prompt.input_value() == "Once upon a time\n"
    prompt.press("Backspace")
    prompt.press("Control+Enter")
    expect(answered(page).locator(".text")).to_have_text("there was a block.")
    page.get_by_role("button", name="Continue").click()
    answered(page, 2)
    keep(page, "completion")
    assert [body["prompt"] for body in stub.bodies] == ["Once upon a time", "Once upon a time there was a block."]
    assert "messages" not in stub.bodies[0]
    assert prompt.input_value() == "Once upon a time there was a block."
    page.get_by_label("Chat").check()
    expect(page.locator(".turn")).to_have_count(0)


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_tokens_are_coloured_by_probability(open_page: OpenPage, stub: Stub, mode: str) -> None:
    stub.answer = RIVALS
    page = open_page()
    page.get_by_label("Colour tokens").check()
    if mode == "completion":
        page.get_by_label("Completion").check()
    page.locator("#prompt").fill("Go")
    page.locator("#send").click()
    tokens = answered(page).locator(".token")
    expect(tokens).to_have_text(["One", "block", "more"])
    assert [tokens.nth(at).get_attribute("class") for at in range(3)] == ["token p0", "token p3", "token p4"]
    body = stub.bodies[0]
    assert (body["logprobs"], body.get("top_logprobs")) == ((True, 5) if mode == "chat" else (5, None))
    tokens.nth(1).hover()
    tip = page.get_by_role("tooltip")
    expect(tip.locator("li code")).to_have_text(["␣page", "␣block"])
    expect(tip.locator("li > span:last-child")).to_have_text(["60.0 %", "30.0 %"])
    expect(tip.locator("li.chosen code")).to_have_text("␣block")
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()
    answered(page).locator(".text").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(tokens.nth(2)).to_be_focused()
    expect(tip.locator("li code")).to_have_text(["␣less", "␣more"])  # the chosen one beside the five best
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_tokens_find_their_text_where_it_comes_late(open_page: OpenPage) -> None:
    page = open_page()
    parts = page.evaluate(
        """async () => {
          const url = document.querySelector('script[type=module]').src.replace('playground.js', 'tokens.js');
          const { TokenText } = await import(url);
          const of = (...tokens) => tokens.map((token) => ({ token, logprob: -1, top: [] }));
          const run = (...chunks) => {
            const text = new TokenText();
            const parts = chunks.flatMap(([piece, ...tokens]) => text.push(piece, of(...tokens)));
            return [...parts, ...text.end()].map((part) => [part.text, part.token?.token ?? null]);
          };
          return [
            run(["ab", "a", "b"]),
            run(["", "a"], ["", "b"], ["abc", "c"]),
            run(["", "\\ufffd"], ["é", "\\ufffd"], ["x", "x"]),
            run(["plain"]),
            run(["", "<s>", "hi"], ["hi"]),
            run(["", "stop here"], ["stop", ]),
          ];
        }"""
    )
    assert parts == [
        [["a", "a"], ["b", "b"]],
        [["a", "a"], ["b", "b"], ["c", "c"]],
        [["é", "\ufffd"], ["x", "x"]],
        [["plain", None]],
        [["hi", "hi"]],
        [["stop", "stop here"]],
    ]


def test_the_last_answer_is_made_again_and_the_last_message_edited(open_page: OpenPage, stub: Stub) -> None:
    page = open_page()
    page.get_by_label("System prompt").fill("Be brief.")
    send(page, "First")
    answered(page)
    send(page, "Second")
    answered(page, 2)
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(1)
    stub.answer = words("Another one.")
    page.get_by_role("button", name="Regenerate").click()
    expect(answered(page, 2).locator(".text")).to_have_text("Another one.")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("Third")
    page.keyboard.press("Enter")
    answered(page, 2)
    expect(page.locator(".question .text")).to_have_text(["First", "Third"])
    last = stub.bodies[-1]["messages"]
    assert [message["content"] for message in last] == ["Be brief.", "First", "A block holds sixteen tokens.", "Third"]
    page.get_by_role("button", name="Edit").click()
    page.keyboard.press("Escape")
    expect(page.locator(".question .text")).to_have_text(["First", "Third"])
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_settings_are_sent_and_remembered(open_page: OpenPage, stub: Stub) -> None:
    page = open_page()
    values = {"Top k": "40", "Min p": "0.05", "Max tokens": "12", "Seed": "7", "Presence": "0.5"}
    values |= {"Frequency": "-0.5", "Repetition": "1.1"}
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Temperature, slider").fill("1.2")
    page.get_by_label("Top p", exact=True).fill("")
    page.get_by_label("Stop strings").fill("END\n\\n\\n\na\\\\b")
    page.reload()
    send(page, "Go")
    answered(page)
    body = stub.bodies[0]
    assert {name: body.get(name) for name in ("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed")} == {
        "temperature": 1.2,
        "top_p": None,
        "top_k": 40,
        "min_p": 0.05,
        "max_tokens": 12,
        "seed": 7,
    }
    assert (body["presence_penalty"], body["frequency_penalty"], body["repetition_penalty"]) == (0.5, -0.5, 1.1)
    assert body["stop"] == ["END", "\n\n", "a\\b"]
    assert math.isclose(float(page.get_by_label("Temperature, slider").input_value()), 1.2)
    page.get_by_label("Max tokens").fill("0")
    send(page, "Refused here")
    expect(page.locator(".turn")).to_have_count(1)
    page.get_by_role("button", name="Back to the defaults").click()
    assert page.get_by_label("Max tokens").input_value() == "256"


def test_all_of_it_goes_by_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    skip = page.get_by_text("Skip to the prompt")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    seen = []
    for _ in range(14):
        focused = page.evaluate(
            """() => { const e = document.activeElement;
                 const outlined = (node) => getComputedStyle(node).outlineStyle !== 'none';
                 return [e.id || e.textContent || e.tagName, outlined(e) || outlined(e.nextElementSibling ?? e)]; }"""
        )
        seen.append(focused)
        page.keyboard.press("Shift+Tab")
    assert all(outlined for _, outlined in seen), seen
    names = [name for name, _ in seen]
    assert {"Regenerate", "Edit", "Copy", "log", "settings-button", "clear", "theme-button", "key-button"} <= set(names)


def test_the_theme_is_switched_and_kept(open_page: OpenPage) -> None:
    page = open_page(theme="light")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(paper)
    switch = page.locator("#theme-button")
    expect(switch).to_have_text("Auto")
    switch.click()
    expect(switch).to_have_text("Light")
    assert page.evaluate(paper) == light
    switch.click()
    expect(switch).to_have_text("Dark")
    dark = page.evaluate(paper)
    assert dark != light
    page.goto(page.url + "status")
    assert page.evaluate(paper) == dark
