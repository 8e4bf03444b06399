"""The API page in Chromium: a description is read, unfolded, filtered and tried."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from page_stub import Stub
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def json_of(name: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "A server", "version": "1.2.3", "description": "What `it` offers."},
    "tags": [{"name": "Generation"}, {"name": "Empty"}],
    "security": [{"bearer": []}],
    "paths": {
        "/v1/chat/completions": {
            "post": {
                "tags": ["Generation"],
                "summary": "The next message",
                "description": "Streams with `stream: true`. <b>Plain</b> text.",
                "requestBody": json_of("ChatRequest"),
                "responses": {
                    "200": {"description": "It", **json_of("Node")},
                    "429": {"$ref": "#/components/responses/Full"},
                },
            }
        },
        "/v1/models/{model}": {
            "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "tags": ["Generation"],
                "parameters": [{"name": "deep", "in": "query", "schema": {"type": "boolean"}}],
                "responses": {"200": {"description": "One model"}},
            },
        },
        "/v1/models": {"get": {"tags": ["Generation"], "responses": {"200": {"description": "All"}}}},
        "/health/ready": {"get": {"security": [], "responses": {"200": {"description": "It serves"}}}},
    },
    "components": {
        "responses": {"Full": {"description": "The queue is full"}},
        "schemas": {
            "ChatRequest": {
                "title": "ChatRequest",
                "type": "object",
                "required": ["messages"],
                "properties": {
                    "messages": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Message"}},
                    "temperature": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 2}, {"type": "null"}]},
                    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                    "seed": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
                    "stream": {"type": "boolean", "default": False, "description": "Send `events`."},
                },
            },
            "Message": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"enum": ["user", "system"]}, "content": {"type": "string"}},
            },
            "Node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/components/schemas/Node"}, {"type": "null"}]},
                },
            },
        },
    },
}


@pytest.fixture(autouse=True)
def _description(stub: Stub) -> None:
    stub.openapi = OPENAPI


def opened(page: Page, id: str) -> Any:
    page.locator(f"#{id} > summary").click()
    return page.locator(f"#{id} .inside")


def test_operations_are_listed_by_tag(open_page: OpenPage, keep: Callable[..., Any]) -> None:
    page = open_page("/docs")
    expect(page.locator("h1")).to_have_text("A server")
    expect(page.locator("#version")).to_have_text("1.2.3")
    expect(page.locator("#index h2")).to_have_text(["Generation", "Other"])
    expect(page.locator("#index a")).to_have_text(
        ["POST/v1/chat/completions", "GET/v1/models/{model}", "GET/v1/models", "GET/health/ready"]
    )
    page.get_by_role("link", name="POST /v1/chat/completions").click()
    inside = page.locator("#post-v1-chat-completions .inside")
    expect(inside.locator(".prose")).to_have_text("Streams with stream: true. <b>Plain</b> text.")
    expect(inside.locator(".prose code")).to_have_text("stream: true")
    keep(page, "docs")
    page.get_by_label("Filter").fill("health")
    expect(page.locator(".operation:visible .path")).to_have_text(["/health/ready"])
    expect(page.locator("#index h2:visible")).to_have_text(["Other"])
    page.get_by_label("Filter").fill("")
    expect(page.locator(".operation:visible")).to_have_count(4)


def test_schemas_unfold_as_deep_as_one_asks(open_page: OpenPage) -> None:
    page = open_page("/docs")
    inside = opened(page, "post-v1-chat-completions")
    lines = inside.locator("section").first.locator(".schema > li > div:first-child")
    expect(lines).to_have_text(
        [
            "messages array of Message required · at least 1 items",
            "temperature number or null · ≥ 0 · ≤ 2",
            "stop string or array of string",
            "seed integer",
            "stream boolean · default false",
        ]
    )
    inside.get_by_text("Message", exact=True).click()
    expect(inside.locator("li li div:first-child")).to_have_text(
        ['role "user" | "system" required', "content string required"]
    )
    node = inside.locator(".response").first
    node.get_by_text("Node", exact=True).first.click()
    for depth in (1, 2, 3):  # it holds itself
        node.locator("summary", has_text="Node").nth(depth).click()
    expect(node.locator(".schema")).to_have_count(4)
    expect(inside.locator(".response").last).to_have_text("429The queue is full ")


def test_an_operation_is_tried(open_page: OpenPage, stub: Stub) -> None:
    page = open_page("/docs")
    inside = opened(page, "post-v1-chat-completions")
    body = inside.get_by_label("Body")
    assert body.input_value() == (
        '{\n  "messages": [\n    {\n      "role": "user",\n      "content": "text"\n    }\n  ]\n}'
    )
    body.fill('{"messages": [{"role": "user", "content": "it\'s"}]}')
    expect(inside.locator("pre code")).to_have_text(
        f"curl -X POST '{stub.url}/v1/chat/completions' -H \"Authorization: Bearer $JAXPAGED_API_KEY\""
        " -H 'Content-Type: application/json'"
        """ -d '{"messages":[{"role":"user","content":"it'\\''s"}]}'"""
    )
    inside.get_by_role("button", name="Send").click()
    expect(inside.locator(".try [role=status]")).to_have_text(re.compile(r"^200 OK · [\d.]+ (ms|s)$"))
    expect(inside.locator("pre.code").last).to_contain_text("data: [DONE]")
    assert stub.bodies == [{"messages": [{"role": "user", "content": "it's"}]}]


def test_parameters_go_where_they_belong(open_page: OpenPage, stub: Stub) -> None:
    page = open_page("/docs", expected=(404,))
    inside = opened(page, "get-v1-models-model")
    inside.get_by_label("model, in path").fill("a/b c")
    inside.get_by_label("deep, in query").fill("true")
    expect(inside.locator("pre code")).to_contain_text(f"curl '{stub.url}/v1/models/a%2Fb%20c?deep=true'")
    inside.get_by_role("button", name="Send").click()
    expect(inside.locator(".try [role=status]")).to_contain_text("404 Not Found")


def test_an_open_operation_needs_no_key(open_page: OpenPage, stub: Stub) -> None:
    stub.key = "sesame"
    page = open_page("/docs", expected=(401,))
    page.get_by_role("button", name="Enter key").click()
    page.get_by_label("Key, kept in this tab only").fill("sesame")
    page.keyboard.press("Enter")
    inside = opened(page, "get-health-ready")
    expect(inside.locator("pre code")).to_have_text(f"curl '{stub.url}/health/ready'")
    inside.get_by_role("button", name="Send").click()
    expect(inside.locator("pre.code").last).to_have_text('{\n  "status": "ok",\n  "phase": "ready"\n}')
    models = opened(page, "get-v1-models")
    models.get_by_role("button", name="Send").click()
    expect(models.locator("pre.code").last).to_contain_text('"id": "tiny-stories"')


def test_an_address_opens_its_operation(open_page: OpenPage) -> None:
    page = open_page("/docs#get-v1-models")
    expect(page.locator("#get-v1-models .try")).to_be_visible()
    expect(page.locator("#get-v1-models > summary")).to_be_focused()
