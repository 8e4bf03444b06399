"""The formats of calls, by the names that vLLM's --tool-call-parser has for them. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jaxpaged.dialects.call_format import CallFormat, NamedBody, ObjectBody, PairsBody, PythonBody, Writing

_JSON = (ObjectBody(),)
_TAGGED = CallFormat(
    opens=("<tool_call>",),
    closes=("</tool_call>",),
    bodies=_JSON,
    writing=Writing(
        begin='<tool_call>\n{"name": "{name}", "arguments": ',
        end="}\n</tool_call>",
        separator="\n",
        trigger="<tool_call>",
    ),
)
_LISTED = CallFormat(opens=("<tool_calls>",), closes=("</tool_calls>",), bodies=_JSON)
_LLAMA = CallFormat(
    opens=("<|python_tag|>",),
    bare=("{",),
    closes=(";", "<|eom_id|>"),
    bodies=(ObjectBody(strict=True),),
    writing=Writing(begin='{"name": "{name}", "parameters": ', end="}", separator="; "),
)
_GLM = CallFormat(
    opens=("<tool_call>",),
    closes=("</tool_call>",),
    bodies=(
        PairsBody(
            key_begin="<arg_key>",
            key_end="</arg_key>",
            value_begins=("<arg_value>",),
            value_end="</arg_value>",
            ends=("</tool_call>",),
        ),
    ),
)
_FUNCTION = PairsBody(
    name_end=">",
    key_begin="<parameter=",
    key_end=">",
    value_end="</parameter>",
    ends=("</function>",),
    line=True,
)
_CODER = CallFormat(
    opens=("<function=",),
    frames=("<tool_call>",),
    closes=("</tool_call>",),
    bodies=(_FUNCTION,),
)

CALL_FORMATS: Mapping[str, CallFormat] = MappingProxyType(
    {
        "hermes": _TAGGED,
        "granite4": _TAGGED,
        "longcat": CallFormat(opens=("<longcat_tool_call>",), closes=("</longcat_tool_call>",), bodies=_JSON),
        "granite": CallFormat(opens=("<|tool_call|>", "<tool_call>"), closes=("</tool_call>",), bodies=_JSON),
        "granite-20b-fc": CallFormat(opens=("<function_call>",), bodies=_JSON),
        "internlm": CallFormat(
            opens=("<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"),
            closes=("<|action_end|>",),
            bodies=_JSON,
        ),
        "jamba": _LISTED,
        "hunyuan_a13b": _LISTED,
        "phi4_mini_json": CallFormat(opens=("functools",), bodies=_JSON),
        "llama3_json": _LLAMA,
        "llama4_json": _LLAMA,
        "mistral": CallFormat(
            opens=("[TOOL_CALLS]",),
            bodies=(ObjectBody(), NamedBody(middles=("[ARGS]", "[CALL_ID]", ""), id_middle="[CALL_ID]")),
            ids="short",
        ),
        "pythonic": CallFormat(bare=("[",), bodies=(PythonBody(strict=True),)),
        "llama4_pythonic": CallFormat(
            opens=("<|python_start|>",),
            bare=("[",),
            closes=("<|python_end|>",),
            bodies=(PythonBody(strict=True),),
        ),
        "lfm2": CallFormat(opens=("<|tool_call_start|>",), closes=("<|tool_call_end|>",), bodies=(PythonBody(),)),
        "olmo3": CallFormat(
            opens=("<function_calls>",), closes=("</function_calls>",), bodies=(PythonBody(listed=False),)
        ),
        "openai": CallFormat(
            channels=True,
            writing=Writing(
                begin="<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>", single=True
            ),
        ),
        "deepseek_v3": CallFormat(
            opens=("<｜tool▁call▁begin｜>",),
            frames=("<｜tool▁calls▁begin｜>",),
            closes=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
            bodies=(NamedBody(lead="<｜tool▁sep｜>", middles=("```json",), tail="```"),),
            writing=Writing(
                begin="<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
                end="\n```<｜tool▁call▁end｜>",
                first="<｜tool▁calls▁begin｜>",
                last="<｜tool▁calls▁end｜>",
                separator="\n",
            ),
        ),
        "deepseek_v31": CallFormat(
            opens=("<｜tool▁call▁begin｜>",),
            frames=("<｜tool▁calls▁begin｜>",),
            closes=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
            bodies=(NamedBody(middles=("<｜tool▁sep｜>",)),),
            writing=Writing(
                begin="<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
                end="<｜tool▁call▁end｜>",
                first="<｜tool▁calls▁begin｜>",
                last="<｜tool▁calls▁end｜>",
            ),
        ),
        "deepseek_v32": CallFormat(
            opens=('<｜DSML｜invoke name="',),
            frames=("<｜DSML｜function_calls>",),
            closes=("</｜DSML｜function_calls>",),
            bodies=(
                PairsBody(
                    name_end='">',
                    key_begin='<｜DSML｜parameter name="',
                    key_end='"',
                    value_begins=(' string="true">', ' string="false">'),
                    text_begins=(' string="true">',),
                    value_end="</｜DSML｜parameter>",
                    ends=("</｜DSML｜invoke>",),
                ),
            ),
        ),
        "kimi_k2": CallFormat(
            opens=("<|tool_call_begin|>",),
            frames=("<|tool_calls_section_begin|>",),
            closes=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
            bodies=(NamedBody(middles=("<|tool_call_argument_begin|>",), is_path=True),),
        ),
        "glm45": _GLM,
        "glm47": _GLM,
        "qwen3_coder": _CODER,
        "qwen3_xml": _CODER,
        "mimo": _CODER,
        "seed_oss": CallFormat(
            opens=("<function=",),
            frames=("<seed:tool_call>",),
            closes=("</seed:tool_call>",),
            bodies=(_FUNCTION,),
        ),
        "minimax_m2": CallFormat(
            opens=('<invoke name="',),
            frames=("<minimax:tool_call>",),
            closes=("</minimax:tool_call>",),
            bodies=(
                PairsBody(
                    name_end='">',
                    key_begin='<parameter name="',
                    key_end='">',
                    value_end="</parameter>",
                    ends=("</invoke>",),
                    line=True,
                ),
            ),
        ),
    }
)
