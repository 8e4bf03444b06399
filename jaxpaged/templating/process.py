"""The parent's end, for programs that wait: one child, started when it is first needed. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxpaged.asked_child import AskedChild, BrokenChildError
from jaxpaged.chat_messages import plain, plain_messages
from jaxpaged.chat_template import DEFAULT, ChatTemplates
from jaxpaged.templating.wire import COMMAND, NAME, Render, Rendered, Setup, broken, frame, text_of, too_slow


class CappedTemplates:
    """`ChatTemplates` whose templates may neither take for ever nor fill the memory: a child that does is killed, and
    the next conversation gets another one. Calls may come from several threads; one is served at a time.

    limit_s: seconds of one rendering. most_characters: of a prompt.
    """

    def __init__(
        self,
        templates: Mapping[str, str],
        special_tokens: Mapping[str, str],
        *,
        limit_s: float = 10.0,
        most_characters: int = 1 << 26,
    ) -> None:
        self._setup = Setup(templates=dict(templates), special_tokens=dict(special_tokens))
        self._limit_s = limit_s
        self._most = most_characters
        self._child = AskedChild(NAME, COMMAND, setup=frame(self._setup), answers=Rendered)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._setup.templates)

    @property
    def source(self) -> str | None:
        """The default template's text."""
        return self._setup.templates.get(DEFAULT)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        **asked: Any,
    ) -> str:
        """As `ChatTemplates.render`. Raises PromptError, too, for a template that takes too long or too much memory, or
        makes more than `most_characters`; ChildError where the process of templates does not start."""
        if not self.names:
            ChatTemplates({}, {}).render(messages, add_generation_prompt=add_generation_prompt)  # tells what is missing
        told = frame(
            Render(
                messages=plain_messages(messages),
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                asked={name: plain(value, name) for name, value in asked.items()},
                most=self._most,
            )
        )
        try:
            return text_of(self._child.ask(told, limit_s=self._limit_s))
        except TimeoutError:
            raise too_slow(self._limit_s) from None
        except BrokenChildError:
            raise broken() from None

    def close(self) -> None:
        """End the child, if there is one; the next conversation starts another."""
        self._child.close()
