"""Chat templates: a conversation becomes a prompt as the model's own Jinja template says. [host half: no jax]

Templates come with models from strangers: they run in a sandbox and see plain data only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from jaxpaged.bounded_json import read_bounded
from jaxpaged.chat_messages import cut_at_mark, mark_end, plain, plain_messages
from jaxpaged.errors import PromptError, TokenizerError
from jaxpaged.template_sandbox import template_sandbox

DEFAULT = "default"
_TOOL_USE = "tool_use"


def read_chat_templates(folder: Path, declared: object) -> dict[str, str]:
    """The templates of a model folder by name.

    `declared` is `chat_template` of tokenizer_config.json: a template, a list of {"name": ..., "template": ...}, or
    an object of templates by name.
    chat_template.jinja and additional_chat_templates/*.jinja take their place where they exist.
    Raises TokenizerError for what is none of these.
    """
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files[DEFAULT] = folder / "chat_template.jinja"
    try:
        from_files = {name: read_bounded(path).decode() for name, path in files.items()}
    except (OSError, ValueError) as error:
        raise TokenizerError(
            name="chat template", value=str(folder), limit=f"a file of it cannot be read: {error}"
        ) from error
    if from_files or declared is None:
        return from_files
    if isinstance(declared, str):
        return {DEFAULT: declared}
    if isinstance(declared, Mapping) and "template" not in declared:
        declared = [{"name": name, "template": template} for name, template in declared.items()]
    named: dict[str, str] = {}
    for entry in declared if isinstance(declared, list) else [declared]:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise TokenizerError(
                name=f"chat_template of {folder / 'tokenizer_config.json'}",
                value=entry,
                limit='it must be a string, an object of them or a list of {"name": string, "template": string}',
            )
        named[name] = template
    return named


class ChatTemplates:
    """The templates of one model, each compiled when it is first used."""

    def __init__(self, templates: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self._sources = dict(templates)
        self._special_tokens = dict(special_tokens)
        self._compiled: dict[str, jinja2.Template] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sources)

    @property
    def source(self) -> str | None:
        """The default template's text."""
        return self._sources.get(DEFAULT)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of `messages`. `chat_template` is the name of a template; without it "tool_use" is taken where
        there is one and tools are given, else "default".

        continue_final_message: the prompt ends with the last message's own text, so that the answer goes on with it.
        Raises TokenizerError (no template, or one that does not parse) and PromptError (refused by the template).
        """
        template = self._template(self._choose(chat_template, has_tools=tools is not None))
        if add_generation_prompt and continue_final_message:
            limit = "it contradicts continue_final_message"
            raise PromptError(name="add_generation_prompt", value=True, limit=limit, fix="Set one of the two")
        seen = plain_messages(messages)
        last_text = mark_end(seen) if continue_final_message else ""
        given = {"messages": seen, "tools": plain(tools, "tools"), "documents": plain(documents, "documents")}
        others = {name: plain(value, name) for name, value in variables.items()}
        try:
            prompt = template.render(
                {**self._special_tokens, **others, **given, "add_generation_prompt": add_generation_prompt}
            )
        except jinja2.TemplateError as error:
            raise PromptError(name="messages", value=messages, limit=f"the chat template refuses: {error}") from error
        except MemoryError as error:
            limit = "the chat template takes too much memory"
            raise PromptError(name="messages", value=messages, limit=limit) from error
        except Exception as error:  # a template is a program: whatever it trips over is about these messages
            limit = f"the chat template fails with {type(error).__name__}: {error}"
            raise PromptError(name="messages", value=messages, limit=limit) from error
        return cut_at_mark(prompt, last_text) if continue_final_message else prompt

    def _choose(self, name: str | None, *, has_tools: bool) -> str:
        if not self._sources:
            raise TokenizerError(
                name="chat template",
                value=None,
                limit="the model has none",
                fix="Send a plain prompt, or put a chat_template.jinja into its folder",
            )
        chosen = name or (_TOOL_USE if has_tools and _TOOL_USE in self._sources else DEFAULT)
        if chosen not in self._sources:
            limit = f"the model's templates are {', '.join(map(repr, self._sources))}"
            raise PromptError(name="chat_template", value=chosen, limit=limit, fix="Name one of them")
        return chosen

    def _template(self, name: str) -> jinja2.Template:
        if name not in self._compiled:
            try:
                self._compiled[name] = template_sandbox().from_string(self._sources[name])
            except jinja2.TemplateError as error:
                limit = f"it does not parse: {error} (line {getattr(error, 'lineno', '?')})"
                raise TokenizerError(name="chat template", value=name, limit=limit) from error
        return self._compiled[name]
