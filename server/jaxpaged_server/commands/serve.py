"""`jaxpaged serve`: the command line, the environment and a file become the options of an engine and its server."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated

import tyro

from jaxpaged.commands import FAILED
from jaxpaged.commands.flags import EngineFlags, FlagStyle, Json, OptionalPath, OptionalText, counted, parse
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged_server.environment import variables
from jaxpaged_server.flag_forms import FlagForm
from jaxpaged_server.flag_words import LINE, Given, latest, read_words
from jaxpaged_server.known_flags import KnownFlags
from jaxpaged_server.settings import PATHS, ServerConfig
from jaxpaged_server.vllm_flags import PAGE

PROG = "jaxpaged serve"
Serve = Callable[[EngineConfig, ServerConfig], int]
ServerFlags = tyro.conf.OmitArgPrefixes[ServerConfig]

_Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
_PathText = Annotated[str | None, tyro.conf.arg(metavar="PATH")]
_STYLE = FlagStyle(
    types={
        "served_model_name": _Repeated,
        "api_key": _Repeated,
        "allowed_origins": _Repeated,
        "max_num_queued_tokens": counted("max_num_queued_tokens"),
        "max_body_bytes": counted("max_body_bytes"),
        "default_chat_template_kwargs": Json,
        "kv_events_config": Json,
        "structured_outputs_config": Json,
        **dict.fromkeys(PATHS, _PathText),
        # words that are refused with a reason of ours, not by the parser
        "log_level": Annotated[str, tyro.conf.arg(metavar="LEVEL")],
        "log_format": Annotated[str, tyro.conf.arg(metavar="{text,json}")],
    }
)
_CONFIG = FlagForm(name="config", takes="value")
_HELP = ("-h", "--help")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Serve a model over HTTP with OpenAI's API. Without a model, the bundled one.

    Other flags of vLLM are accepted and ignored, or refused with a reason: docs/VLLM_FLAGS.md lists them.
    """

    model_tag: Annotated[
        OptionalText, tyro.conf.Positional, tyro.conf.arg(name="MODEL", metavar="MODEL", help_behavior_hint="")
    ] = None
    """Folder of the model in Hugging Face layout."""
    config: OptionalPath = None
    """YAML file with flag names as keys; the command line comes before it, the environment after."""
    server: ServerFlags = field(default_factory=ServerConfig)
    """Names and meanings are vLLM's where it has them."""
    engine: EngineFlags = field(default_factory=EngineConfig)
    """As in `LLM(...)`; names and meanings are vLLM's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for. ignored: flags without effect, with the reason. refused: lines that say why it cannot be."""

    engine: EngineConfig
    server: ServerConfig
    ignored: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def main(argv: Sequence[str], *, serve: Serve | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the command; returns the exit status. serve: what does it (default: `jaxpaged_server.lifecycle.serve`)."""
    if _asks_for_help(argv):
        parse(ServeOptions, ["--help"], prog=PROG, styles={ServerConfig: _STYLE})
    asked = read_options(argv, environ)
    if asked.refused:
        sys.stderr.write("".join(f"error: {line}\n" for line in asked.refused))
        return FAILED
    from jaxpaged_server.logs import configure_logging

    configure_logging(asked.server.log_form, secrets=asked.server.api_key)
    if asked.ignored:
        logging.getLogger(__name__).warning("ignored: %s; see %s", ", ".join(asked.ignored), PAGE)
    if serve is None:  # brings aiohttp: only when there is something to serve
        serve = import_module("jaxpaged_server.lifecycle").serve
        assert serve is not None
    return serve(asked.engine, asked.server)


def read_options(argv: Sequence[str], environ: Mapping[str, str]) -> Asked:
    """The options of a command line, with what a file and the environment say of the rest.

    Raises ConfigError naming the flag, and SystemExit (2) for a value of the wrong type.
    """
    known = KnownFlags([EngineConfig, ServerConfig], more=[_CONFIG])
    line, plain = read_words(argv, known.find, known.unknown)
    if len(plain) > 1:
        raise ConfigError(name="MODEL", value=plain, limit="there is one model to a server", fix="Flags begin with --")
    given = latest(line, _of_file(line, known), _of_environment(environ, known))
    sorted_flags = known.sort(given)
    if sorted_flags.refused:
        return Asked(engine=EngineConfig(), server=ServerConfig(), refused=sorted_flags.refused)
    options = _parsed(sorted_flags.ours, plain)
    return Asked(engine=_engine(options, line), server=options.server, ignored=sorted_flags.ignored)


def _asks_for_help(argv: Sequence[str]) -> bool:
    words = argv[: argv.index("--")] if "--" in argv else argv
    return any(word in _HELP or word.startswith("--help=") for word in words)


def _of_file(line: Sequence[Given], known: KnownFlags) -> list[Given]:
    config = next((given for given in reversed(line) if given.form.name == _CONFIG.name), None)
    if config is None:
        return []
    from jaxpaged_server.config_file import read_config_file  # brings yaml

    return read_config_file(Path(config.values[0]), known.find, known.unknown)


def _of_environment(environ: Mapping[str, str], known: KnownFlags) -> list[Given]:
    return [
        Given(form=known.ours[item.flag], written=item.name, values=(item.value,), source=item.name)
        for item in variables(environ)
    ]


def _parsed(ours: Sequence[Given], plain: Sequence[str]) -> ServeOptions:
    words = [word for item in ours for word in item.words()]
    try:
        return parse(ServeOptions, [*words, *plain], prog=PROG, styles={ServerConfig: _STYLE})
    except ConfigError as error:
        name = re.split(r"[ .]", error.name)[0].replace("_", "-")
        for source in (item.source for item in ours if item.form.name == name and item.source != LINE):
            error.add_note(f"from {source}")
        raise


def _engine(options: ServeOptions, line: Sequence[Given]) -> EngineConfig:
    """With the model that comes first: the one without a flag, or the flag's."""
    if options.model_tag is None:
        return options.engine
    flag = next((given for given in line if given.form.name == "model"), None)
    if flag is not None and flag.values != (options.model_tag,):
        raise ConfigError(
            name="MODEL", value=options.model_tag, limit=f"--model names another, {flag.values[0]!r}", fix="Give one"
        )
    return replace(options.engine, model=options.model_tag)
