"""Text and token ids for the handlers: short texts at once, long ones in a thread, chat templates in a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jaxpaged.prompt import check_characters
from jaxpaged.tokenize import Tokenizer
from jaxpaged_server.access.keys import Key
from jaxpaged_server.beside import Beside, Result
from jaxpaged_server.templating.renderer import TemplateRenderer

_AT_ONCE = 2048
"""Characters that are tokenised on the event loop: about a millisecond at most; longer texts would hold up others."""


class TextWorker:
    """A model's tokenizer and chat templates, for handlers. Keys take turns at what is not done at once (`Turns`).

    template: a chat template in place of the model's own; most_characters: of a rendered conversation.
    model, generation_config: see `Tokenizer.load`. shared: whether there are several keys.
    """

    def __init__(
        self,
        folder: str,
        *,
        template: str | None = None,
        most_characters: int,
        model: str | None = None,
        generation_config: str | None = None,
        threads: int = 2,
        shared: Callable[[], bool] = lambda: False,
    ) -> None:
        """Reads the tokenizer. Raises TokenizerError and ModelError."""
        self.tokenizer = Tokenizer.load(folder, model=model, generation_config=generation_config)
        self.renderer = TemplateRenderer(folder, shared=shared)
        self._template = template
        self._most = most_characters
        self._beside = Beside(threads, name="tokenise", shared=shared)

    @property
    def template(self) -> str | None:
        """The source of the chat template in use."""
        return self._template or self.tokenizer.chat_template

    def check_length(self, num_characters: int, max_model_len: int) -> None:
        """Raise ContextLengthError for a text that is too long for the model whatever its tokens are."""
        check_characters(num_characters, longest_token=self.tokenizer.longest_token, max_model_len=max_model_len)

    async def encode(self, key: Key, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Token ids. Raises PromptError, and as `aside` does."""
        encode = partial(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)
        return await self.aside(key, len(text), lambda: tuple(encode()))

    async def decode(self, key: Key, ids: list[int]) -> str:
        """The text of token ids, special tokens included. Raises PromptError, and as `aside` does."""
        return await self.aside(key, len(ids), partial(self.tokenizer.decode, ids, skip_special_tokens=False))

    async def spellings(self, key: Key, ids: Sequence[int]) -> list[str]:
        """The tokens as the vocabulary writes them. Raises as `aside` does."""
        return await self.aside(key, len(ids), partial(self.tokenizer.token_strings, ids))

    async def aside(self, key: Key, size: int, work: Callable[[], Result]) -> Result:
        """Do something for a key: at once where it is small, else in a thread when its turn comes.

        size: of what it reads, in characters or tokens. Raises QueueFullError where too much of this key waits.
        """
        if size <= _AT_ONCE:
            return work()
        return await self._beside.do(key, size, work)

    async def render(
        self,
        key: Key,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        variables: dict[str, Any],
        template: str | None,
    ) -> str:
        """The prompt of a conversation; its special tokens are in the text. Raises PromptError, TokenizerError, and
        QueueFullError where too much of this key waits.

        continue_final_message: the prompt ends with the last message's own text, so that the answer goes on with it.
        """
        return await self.renderer.render(
            key,
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
            most=self._most,
            template=template or self._template,
        )

    async def close(self) -> None:
        """End threads and processes."""
        self._beside.close()
        await self.renderer.close()
