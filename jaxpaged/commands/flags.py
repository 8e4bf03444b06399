"""Flags from dataclasses: `EngineConfig` and `SamplingParams` are written once, for Python and for the command line.

Field names become vLLM's flag words (`max_model_len` -> `--max-model-len`), the fields' docstrings the help. Other
dataclasses join by a `FlagStyle` given to `parse`. [no jax]
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from jaxpaged.commands.counts import count_of
from jaxpaged.config import EngineConfig
from jaxpaged.errors import JaxPagedError
from jaxpaged.request import SamplingParams

Options = TypeVar("Options")
EngineFlags = tyro.conf.OmitArgPrefixes[EngineConfig]
SamplingFlags = tyro.conf.OmitArgPrefixes[SamplingParams]
Switch = tyro.conf.FlagCreatePairsOff[bool]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="STR")]
OptionalCount = Annotated[int | None, tyro.conf.arg(metavar="INT")]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagStyle:
    """How a dataclass looks on the command line. hidden: fields that are no flags. types: field -> type for tyro."""

    hidden: frozenset[str] = frozenset()
    types: Mapping[str, Any] = field(default_factory=dict)


def counted(name: str, *, automatic: bool = False) -> Any:
    """The type of a flag that takes 4k for 4,000; automatic: "auto" and -1 are taken, too, and mean None."""

    def read(words: list[str]) -> int | None:
        if automatic and words[0].strip().lower() in ("auto", "-1"):
            return None
        try:
            return count_of(words[0], name=name)
        except JaxPagedError as error:
            raise _RefusedError(error) from None

    spec = PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[int | None, spec]


_JSON = PrimitiveConstructorSpec(  # decoded, and refused, by the options themselves
    nargs=1,
    metavar="JSON",
    instance_from_str=lambda words: words[0],
    is_instance=lambda _: True,
    str_from_instance=lambda value: [json.dumps(value)],
)
Json = Annotated[Any, _JSON]
_METAVARS: Mapping[Any, str] = {int | None: "INT", float | None: "FLOAT", str | None: "STR", Path | None: "PATH"}


class _RefusedError(Exception):
    """Carries an error of ours past tyro, which would draw a frame around any ValueError."""

    def __init__(self, error: JaxPagedError) -> None:
        super().__init__(str(error))
        self.error = error


_STYLES: Mapping[type, FlagStyle] = MappingProxyType(
    {
        EngineConfig: FlagStyle(
            types={
                "max_model_len": counted("max_model_len", automatic=True),
                "max_num_batched_tokens": counted("max_num_batched_tokens"),
                "kv_cache_memory_bytes": counted("kv_cache_memory_bytes"),
                # words that are refused with a reason of ours, not by the parser
                "dtype": Annotated[str, tyro.conf.arg(metavar="{auto,float32,bfloat16}")],
                "quantization": Annotated[str | None, tyro.conf.arg(metavar="{int8}")],
                "kv_cache_dtype": Annotated[str, tyro.conf.arg(metavar="{auto,bf16,int8,fp8}")],
                "generation_config": Annotated[str, tyro.conf.arg(metavar="{auto,vllm,PATH}")],
                "override_generation_config": Json,
                "reasoning_config": Json,
                "speculative_config": Json,
            }
        ),
        SamplingParams: FlagStyle(
            # --seed is the engine's and seeds every request; what is printed is one text, without logprobs
            hidden=frozenset(
                {
                    *("seed", "n", "best_of", "logprobs", "logprob_token_ids", "prompt_logprobs"),
                    *("detokenize", "spaces_between_special_tokens", "skip_reading_prefix_cache"),
                    *("allowed_token_ids", "repetition_detection"),
                }
            ),
            types={
                "stop": Annotated[tuple[str, ...], tyro.conf.UseAppendAction],
                "stop_token_ids": Annotated[tuple[int, ...], tyro.conf.UseAppendAction],
                "logit_bias": Annotated[dict[int, float], tyro.conf.UseAppendAction],
                "bad_words": Annotated[tuple[str, ...], tyro.conf.UseAppendAction],
                "truncation_side": Annotated[str | None, tyro.conf.arg(metavar="{left,right}")],
                "structured_outputs": Json,
            },
        ),
    }
)


def parse(
    kind: type[Options],
    argv: Sequence[str],
    *,
    prog: str,
    styles: Mapping[type, FlagStyle] = MappingProxyType({}),
) -> Options:
    """Read a command line into `kind`. styles: further dataclasses within it whose fields are to be flags.

    Raises SystemExit after --help (0) or a flag that cannot be (2), and what the dataclasses raise for their values.
    """
    registry = ConstructorRegistry()
    registry.struct_rule(partial(_dataclass_flags, {**_STYLES, **styles}))
    try:
        return tyro.cli(kind, args=list(argv), prog=prog, registry=registry)
    except _RefusedError as refused:
        raise refused.error from None


def given_fields(kind: type, argv: Sequence[str]) -> frozenset[str]:
    """The fields of a dataclass whose flags are on a command line, whatever their values."""
    words = itertools.takewhile(lambda word: word != "--", argv)
    names = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    return frozenset(item.name for item in fields(kind) if {item.name, f"no_{item.name}"} & names)


def field_docs(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for entry, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                docs[entry.target.id] = inspect.cleandoc(text)
    return docs


def _dataclass_flags(styles: Mapping[type, FlagStyle], info: StructTypeInfo) -> StructConstructorSpec | None:
    kind: Any = info.type
    if not isinstance(kind, type) or kind not in styles:
        return None
    style = styles[kind]
    default = info.default if isinstance(info.default, kind) else kind()
    hints, docs = get_type_hints(kind), field_docs(kind)
    return StructConstructorSpec(
        instantiate=partial(_make, kind),
        fields=tuple(
            StructFieldSpec(
                name=item.name,
                type=_flag_type(style.types.get(item.name, hints[item.name]), docs.get(item.name, "")),
                default=getattr(default, item.name),
                helptext=docs.get(item.name),
            )
            for item in fields(kind)
            if item.name not in style.hidden
        ),
    )


def _make(kind: type[Options], **values: Any) -> Options:
    try:
        return kind(**values)
    except JaxPagedError as error:
        raise _RefusedError(error) from None


def _flag_type(hint: Any, doc: str) -> Any:
    """The field's type, and how the help shows it: a docstring that tells the default needs no second one."""
    hint_of_default = "" if "(default:" in doc else None
    return Annotated[hint, tyro.conf.arg(metavar=_METAVARS.get(hint), help_behavior_hint=hint_of_default)]
