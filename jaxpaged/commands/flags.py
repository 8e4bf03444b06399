"""Flags from dataclasses: `EngineConfig` and `SamplingParams` are written once, for Python and for the command line.

Field names become vLLM's flag words (`max_model_len` -> `--max-model-len`), the fields' docstrings the help. [no jax]
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

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

_NOT_FLAGS = frozenset({"seed", "logprobs", "prompt_logprobs"})
"""Fields of SamplingParams: --seed is the engine's and seeds every request; logprobs are not printed."""
_TYPES: Mapping[str, Any] = {
    "stop": Annotated[tuple[str, ...], tyro.conf.UseAppendAction],
    "stop_token_ids": Annotated[tuple[int, ...], tyro.conf.UseAppendAction],
    "logit_bias": Annotated[dict[int, float], tyro.conf.UseAppendAction],
    # words that are refused with a reason of ours, not by the parser
    "dtype": Annotated[str, tyro.conf.arg(metavar="{auto,float32,bfloat16}")],
    "quantization": Annotated[str | None, tyro.conf.arg(metavar="{int8}")],
    "kv_cache_dtype": Annotated[str, tyro.conf.arg(metavar="{auto,bf16,int8,fp8}")],
}
_METAVARS: Mapping[Any, str] = {int | None: "INT", float | None: "FLOAT", str | None: "STR"}


class _RefusedError(Exception):
    """Carries an error of ours past tyro, which would draw a frame around any ValueError."""

    def __init__(self, error: JaxPagedError) -> None:
        super().__init__(str(error))
        self.error = error


def parse(kind: type[Options], argv: Sequence[str], *, prog: str) -> Options:
    """Read a command line into `kind`.

    Raises SystemExit after --help (0) or a flag that cannot be (2), and what the dataclasses raise for their values.
    """
    registry = ConstructorRegistry()
    registry.struct_rule(_dataclass_flags)
    try:
        return tyro.cli(kind, args=list(argv), prog=prog, registry=registry)
    except _RefusedError as refused:
        raise refused.error from None


def field_docs(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                docs[field.target.id] = inspect.cleandoc(text)
    return docs


def _dataclass_flags(info: StructTypeInfo) -> StructConstructorSpec | None:
    kind = info.type
    if kind not in (EngineConfig, SamplingParams):
        return None
    default = info.default if isinstance(info.default, kind) else kind()
    hints, docs = get_type_hints(kind), field_docs(kind)
    hidden = _NOT_FLAGS if kind is SamplingParams else frozenset()
    return StructConstructorSpec(
        instantiate=partial(_make, kind),
        fields=tuple(
            StructFieldSpec(
                name=field.name,
                type=_flag_type(field.name, hints[field.name], docs.get(field.name, "")),
                default=getattr(default, field.name),
                helptext=docs.get(field.name),
            )
            for field in fields(kind)
            if field.name not in hidden
        ),
    )


def _make(kind: type[Options], **values: Any) -> Options:
    try:
        return kind(**values)
    except JaxPagedError as error:
        raise _RefusedError(error) from None


def _flag_type(name: str, hint: Any, doc: str) -> Any:
    """The field's type, and how the help shows it: a docstring that tells the default needs no second one."""
    hint_of_default = "" if "(default:" in doc else None
    shown = tyro.conf.arg(metavar=_METAVARS.get(hint), help_behavior_hint=hint_of_default)
    return Annotated[_TYPES.get(name, hint), shown]
