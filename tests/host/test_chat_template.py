"""Chat templates render as transformers renders them, and cannot reach out of their sandbox."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from jaxpaged.chat_template import ChatTemplates
from jaxpaged.errors import PromptError, TokenizerError
from jaxpaged.tokenize import Tokenizer, read_templates

CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
INST = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{{ bos_token }}"
    "{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ system if loop.first }}{{ message['content'] | trim }} [/INST]"
    "{% else %} {{ message['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
HEADERS = """{{ bos_token }}
{% for message in messages %}
    {% set content = '<|header|>' + message['role'] + '<|/header|>\\n\\n' + message['content'] | trim + '<|eot|>' %}
    {{ content }}
{% endfor %}
{% if add_generation_prompt %}
<|header|>assistant<|/header|>

{% endif %}
"""
TOOLS = """{%- if tools %}
# Tools
{% for tool in tools %}
{{ tool | tojson(indent=2) }}
{% endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- for call in message.tool_calls %}
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
        {%- endfor %}
    {%- elif message.content is string %}
{{ message.role }}: {{ message.content }}
    {%- else %}
{{ message.role }}: {% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}
    {%- endif %}
{%- endfor %}
"""
LOOPS = """{%- set ns = namespace(seen=0) -%}
{% for message in messages %}
{% if message.role == 'system' %}{% continue %}{% endif %}
{% set ns.seen = ns.seen + 1 %}
{% if ns.seen > 2 %}{% break %}{% endif %}
{{ ns.seen }} {{ message.content }} {{ unknown }} {{ style | default('plain') }}
{% endfor %}
"""
DATED = "{{ strftime_now('%Y') }}{% generation %}{{ messages[-1].content }}{% endgeneration %}{{ pad_token }}"

PLAIN: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief> & 'kind'. "},
    {"role": "user", "content": "  héllo 🙂\n"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
]
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "Weather?"}, {"type": "image"}]},
    {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Zürich", "n": 1}}}]},
    {"role": "tool", "content": "<12 °C>"},
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def backend() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "[UNK]": 2}, unk_token="[UNK]"))


def tokenizer(template: str | dict[str, str]) -> Tokenizer:
    named = {"default": template} if isinstance(template, str) else template
    return Tokenizer(backend(), special_tokens={"bos_token": "<s>", "eos_token": "</s>"}, chat_templates=named)


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize(
    ("template", "messages", "variables"),
    [
        (CHATML, PLAIN, {}),
        (INST, PLAIN, {}),
        (HEADERS, PLAIN, {}),
        (TOOLS, CALLS, {"tools": [TOOL]}),
        (TOOLS, PLAIN, {}),
        (LOOPS, PLAIN, {"style": "terse"}),
        (LOOPS, PLAIN, {}),
        (DATED, PLAIN, {}),
        ({"default": CHATML, "tool_use": TOOLS}, CALLS, {"tools": [TOOL]}),
        ({"default": CHATML, "tool_use": TOOLS}, PLAIN, {}),
        ({"default": CHATML, "short": DATED}, PLAIN, {"chat_template": "short"}),
        (CHATML + "{{ bos_token }}", PLAIN, {"bos_token": "other"}),
    ],
)
def test_renders_as_transformers_does(
    template: str | dict[str, str],
    messages: list[dict[str, Any]],
    variables: dict[str, Any],
    add_generation_prompt: bool,
) -> None:
    oracle = PreTrainedTokenizerFast(tokenizer_object=backend(), bos_token="<s>", eos_token="</s>")
    oracle.chat_template = template
    expected = oracle.apply_chat_template(
        copy.deepcopy(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **variables
    )
    rendered = tokenizer(template).apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, **variables
    )
    assert rendered == expected
    assert rendered


def test_what_a_template_refuses_is_told() -> None:
    with pytest.raises(PromptError, match="Roles must alternate"):
        tokenizer(INST).apply_chat_template([{"role": "assistant", "content": "hi"}])


@pytest.mark.parametrize("content", [3, ["x"]])
def test_what_a_template_trips_over_is_told(content: object) -> None:
    with pytest.raises(PromptError, match="chat template fails with TypeError"):
        tokenizer(CHATML).apply_chat_template([{"role": "user", "content": content}])


def test_the_sandbox_holds() -> None:
    for attack in ("{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ ''.__class__.mro() }}"):
        with pytest.raises(PromptError, match="refuses"):
            tokenizer(attack).apply_chat_template([{"role": "user", "content": ""}])


def test_only_json_values_reach_a_template() -> None:
    with pytest.raises(PromptError, match="JSON"):
        tokenizer(CHATML).apply_chat_template([{"role": "user", "content": object()}])
    with pytest.raises(PromptError, match="messages"):
        tokenizer(CHATML).apply_chat_template(["hi"])  # pyright: ignore[reportArgumentType]


def test_a_missing_or_damaged_template_is_named() -> None:
    with pytest.raises(TokenizerError, match="has none"):
        Tokenizer(backend()).apply_chat_template([])
    with pytest.raises(PromptError, match="there is none"):
        tokenizer(CHATML).apply_chat_template([])
    with pytest.raises(TokenizerError, match=r"does not parse.*line 2"):
        tokenizer("\n{% if %}").apply_chat_template([])
    with pytest.raises(PromptError, match="'default', 'a'"):
        tokenizer({"default": "", "a": ""}).apply_chat_template([], chat_template="b")


def test_templates_are_read_from_the_folder(tmp_path: Path) -> None:
    backend().save(str(tmp_path / "tokenizer.json"))

    def rendered(**variables: Any) -> str:
        templates = ChatTemplates(*read_templates(tmp_path))
        return templates.render([{"role": "user", "content": "x"}], add_generation_prompt=True, **variables)

    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "string"}))
    assert rendered() == "string"
    named = [{"name": "default", "template": "listed"}, {"name": "tool_use", "template": "with tools"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert rendered() == "listed"
    assert rendered(tools=[TOOL]) == "with tools"
    assert Tokenizer.load(tmp_path).apply_chat_template([{"role": "user", "content": "x"}]) == "listed"
    (tmp_path / "chat_template.jinja").write_text("file {{ messages[0].content }}")
    assert rendered() == "file x"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("documents")
    assert rendered(chat_template="rag") == "documents"
