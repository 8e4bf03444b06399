"""Text and token ids for the handlers: short texts at once, long ones in a thread, chat templates in a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from jaxpaged.errors import PromptError
from jaxpaged.tokenize import Tokenizer
from jaxpaged_server.templating.renderer import TemplateRenderer

_AT_ONCE = 2048
"""Characters that are tokenised on the event loop: about a millisecond at most; longer texts would hold up others."""
Result = TypeVar("Result")


class TextWorker:
    """A model's tokenizer and chat templates, for handlers.

    template: a chat template in place of the model's own; most_characters: of a rendered conversation.
    generation_config: see `Tokenizer.load`.
    """

    def __init__(
        self,
        folder: str,
        *,
        template: str | None = None,
        most_characters: int,
        generation_config: str | None = None,
        threads: int = 2,
    ) -> None:
        """Reads the tokenizer. Raises TokenizerError and ModelError."""
        self.tokenizer = Tokenizer.load(folder, generation_config=generation_config)
        self.renderer = TemplateRenderer(folder)
        self._template = template
        self._most = most_characters
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="tokenise")

    @property
    def template(self) -> str | None:
        """The source of the chat template in use."""
        return self._template or self.tokenizer.chat_template

    async def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids. Raises PromptError."""
        encode = partial(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)
        return tuple(await self.aside(len(text), encode))

    async def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens included. Raises PromptError."""
        return await self.aside(len(ids), partial(self.tokenizer.decode, ids, skip_special_tokens=False))

    async def spellings(self, ids: list[int]) -> list[str]:
        """The tokens as the vocabulary writes them."""
        return await self.aside(len(ids), partial(self.tokenizer.token_strings, ids))

    async def aside(self, size: int, work: Callable[[], Result]) -> Result:
        """Do something at once where it is small, else in a thread. size: of what it reads, in characters or tokens."""
        if size <= _AT_ONCE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        variables: dict[str, Any],
        template: str | None,
    ) -> str:
        """The prompt of a conversation; its special tokens are in the text. Raises PromptError and TokenizerError.

        continue_final_message: the prompt ends with the last message's own text, so that the answer goes on with it.
        """
        text = await self.renderer.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
            most=self._most,
            template=template or self._template,
        )
        return _cut_after(text, messages[-1].get("content")) if continue_final_message else text

    async def close(self) -> None:
        """End threads and processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self.renderer.close()


def _cut_after(text: str, content: object) -> str:
    """The prompt up to the end of the last message's content: what the template puts after it is left out. Spaces at
    that end stay where the template keeps them: "Answer: " goes on otherwise than "Answer:"."""
    said = content.strip() if isinstance(content, str) else ""
    at = text.rfind(said) if said else -1
    if at < 0:
        raise PromptError(
            name="continue_final_message",
            value=True,
            limit="the last message's content is empty, or the chat template changes it",
            fix="End with a message whose text the template keeps as it is",
        )
    end = at + len(said)
    spaces = content[len(content.rstrip()) :] if isinstance(content, str) else ""
    return text[: end + len(spaces)] if text.startswith(spaces, end) else text[:end]
