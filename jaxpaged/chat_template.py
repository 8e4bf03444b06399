"""Chat templates: a conversation becomes a prompt as the model's own Jinja template says. [host half: no jax]

Templates come with models from strangers: they run in a sandbox and see plain data only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxpaged.bounded_json import read_bounded
from jaxpaged.errors import PromptError, TokenizerError

_DEFAULT = "default"
_TOOL_USE = "tool_use"


def read_chat_templates(folder: Path, declared: object) -> dict[str, str]:
    """The templates of a model folder by name.

    `declared` is `chat_template` of tokenizer_config.json: a template, or a list of {"name": ..., "template": ...}.
    chat_template.jinja and additional_chat_templates/*.jinja take their place where they exist.
    Raises TokenizerError for what is none of these.
    """
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files[_DEFAULT] = folder / "chat_template.jinja"
    try:
        from_files = {name: read_bounded(path).decode() for name, path in files.items()}
    except (OSError, ValueError) as error:
        raise TokenizerError(
            name="chat template", value=str(folder), limit=f"a file of it cannot be read: {error}"
        ) from error
    if from_files or declared is None:
        return from_files
    if isinstance(declared, str):
        return {_DEFAULT: declared}
    named: dict[str, str] = {}
    for entry in declared if isinstance(declared, list) else [declared]:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise TokenizerError(
                name=f"chat_template of {folder / 'tokenizer_config.json'}",
                value=entry,
                limit='it must be a string or a list of {"name": string, "template": string}',
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
        return self._sources.get(_DEFAULT)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of `messages`. `chat_template` is the name of a template; without it "tool_use" is taken where
        there is one and tools are given, else "default".

        Raises TokenizerError (no template, or one that does not parse) and PromptError (refused by the template).
        """
        if isinstance(messages, str | bytes) or not all(isinstance(message, Mapping) for message in messages):
            raise PromptError(name="messages", value=messages, limit='each must be {"role": ..., "content": ...}')
        template = self._template(self._choose(chat_template, has_tools=tools is not None))
        given = {"messages": messages, "tools": tools, "documents": documents}
        plain = {name: _plain(value, name) for name, value in {**variables, **given}.items()}
        try:
            return template.render({**self._special_tokens, **plain, "add_generation_prompt": add_generation_prompt})
        except jinja2.TemplateError as error:
            raise PromptError(name="messages", value=messages, limit=f"the chat template refuses: {error}") from error
        except Exception as error:  # a template is a program: whatever it trips over is about these messages
            limit = f"the chat template fails with {type(error).__name__}: {error}"
            raise PromptError(name="messages", value=messages, limit=limit) from error

    def _choose(self, name: str | None, *, has_tools: bool) -> str:
        if not self._sources:
            raise TokenizerError(
                name="chat template",
                value=None,
                limit="the model has none",
                fix="Send a plain prompt, or put a chat_template.jinja into its folder",
            )
        chosen = name or (_TOOL_USE if has_tools and _TOOL_USE in self._sources else _DEFAULT)
        if chosen not in self._sources:
            limit = f"the model's templates are {', '.join(map(repr, self._sources))}"
            raise PromptError(name="chat_template", value=chosen, limit=limit, fix="Name one of them")
        return chosen

    def _template(self, name: str) -> jinja2.Template:
        if name not in self._compiled:
            try:
                self._compiled[name] = _environment().from_string(self._sources[name])
            except jinja2.TemplateError as error:
                limit = f"it does not parse: {error} (line {getattr(error, 'lineno', '?')})"
                raise TokenizerError(name="chat template", value=name, limit=limit) from error
        return self._compiled[name]


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 (the name and type that jinja2 reads)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates expect it: whitespace, loop controls, and the functions of transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[[str], str]] = {"raise_exception": _raise, "strftime_now": _now}
    environment.globals.update(functions)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which no model was trained on
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> str:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _plain(value: Any, name: str) -> Any:
    """A copy in plain JSON types: a template must not reach the methods of other objects."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key, name): _plain(item, name) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(item, name) for item in value]
    raise PromptError(name=name, value=value, limit="it may hold JSON values only")
