"""The child: renders conversations, one at a time. [host half: no jax]"""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec

from jaxpaged.answering import answer_frames
from jaxpaged.chat_template import ChatTemplates
from jaxpaged.errors import JaxPagedError
from jaxpaged.templating.wire import Render, Rendered, Setup, frame


def main() -> int:
    """Serve stdin until its end."""
    return answer_frames(_begin)


def _begin(told: bytes) -> Callable[[bytes], bytes]:
    setup = msgspec.msgpack.decode(told, type=Setup)
    own, decode = ChatTemplates(setup.templates, setup.special_tokens), msgspec.msgpack.Decoder(Render).decode
    return lambda asked: frame(_render(own, setup.special_tokens, decode(asked)))


def _render(own: ChatTemplates, special: dict[str, str], asked: Render) -> Rendered:
    templates = own if asked.template is None else ChatTemplates({"default": asked.template}, special)
    try:
        text = templates.render(
            asked.messages,
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message,
            **asked.asked,
        )
    except JaxPagedError as error:
        return Rendered(refused=type(error).__name__, name=error.name, limit=error.limit[:500], fix=error.fix)
    except MemoryError:
        return Rendered(refused="PromptError", name="messages", limit="the chat template takes too much memory")
    except Exception as error:  # as of messages nested too deeply, or of a template that no compiler takes
        limit = f"the chat template fails on them with {type(error).__name__}"
        return Rendered(refused="PromptError", name="messages", limit=limit)
    if len(text) > asked.most:
        limit = f"the chat template makes more than {asked.most} characters of them"
        return Rendered(refused="PromptError", name="messages", limit=limit)
    try:
        text.encode()
    except UnicodeEncodeError:
        return Rendered(refused="PromptError", name="messages", limit="the chat template makes no text of them")
    return Rendered(text=text)


if __name__ == "__main__":
    sys.exit(main())
