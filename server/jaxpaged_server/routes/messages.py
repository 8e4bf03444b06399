"""Messages of a conversation in the form that chat templates know, which is vLLM's."""

from __future__ import annotations

from typing import Any

import msgspec

from jaxpaged_server.api.chat import ChatMessage
from jaxpaged_server.api.parse import BodyError, load_object


def plain_message(message: ChatMessage, name: str) -> dict[str, Any]:
    """Its content is one text, its reasoning has both names, arguments of its tool calls are objects.

    name: of the message, for errors. Raises BodyError for arguments that are no JSON object.
    """
    plain = msgspec.to_builtins(message)
    plain["content"] = text_of(message)
    if (reasoning := message.reasoning or message.reasoning_content) is not None:
        plain["reasoning"] = plain["reasoning_content"] = reasoning
    for i, call in enumerate(plain.get("tool_calls") or ()):
        if isinstance(function := call.get("function"), dict):
            given = function.get("arguments")
            function["arguments"] = _arguments(given, f"{name}.tool_calls[{i}].function.arguments")
    return plain


def text_of(message: ChatMessage) -> str:
    """Its content; parts are joined by newlines, as vLLM joins them."""
    content = message.content
    return "\n".join(part.text for part in content) if isinstance(content, list) else content or ""


def _arguments(given: Any, name: str) -> dict[str, Any]:
    """The object in the text that a model wrote, as OpenAI's API has it; templates go through it or write it anew."""
    if given is None or given == "":
        return {}
    if isinstance(given, dict):
        return given
    limit = "it must be the text of a JSON object"
    if isinstance(given, str):
        try:
            return load_object(given.encode("utf-8", "surrogatepass"))
        except BodyError as error:
            limit = error.limit
    raise BodyError(name=name, value=given, limit=limit, fix="Give the text of a JSON object", param=name)
