"""What a user's `model` means: a folder here, a converted one, a GGUF file, or a name on a hub. [no jax]

A folder always wins over a name. Whoever reads files of a model asks `localised` first; from then on there are only
paths.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, ModelError
from jaxpaged.progress import Progress
from jaxpaged.weights.folder import is_gguf
from jaxpaged.weights.hub import download, snapshot_name
from jaxpaged.weights.manifest import is_converted, read_manifest

_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(?<![.-])", re.ASCII)
"""A name on a hub: owner and model. Names without an owner are not taken: they look like folders."""
_LONGEST_NAME = 96
_FIX = "Give the folder that holds config.json and the weights, or a model's name on the hub, as in org/name"


def localised(
    config: EngineConfig, *, has_model: bool = False, weights: bool = True, progress: Progress | bool = False
) -> EngineConfig:
    """The same engine with paths in place of names: what a hub has is downloaded, unless the cache holds it.

    has_model: a loaded model is given, so that `config.model` is a name of no meaning. weights: of the model, too, and
    not only what says its shape. What was localised once stays as it is. A GGUF file gets its tokenizer out of its
    metadata, unless one is named; a converted folder says dtype and quantization. Raises ModelError for a model that is
    neither here nor a name, or cannot be read, UnsupportedModelError for one that is not fetched because it cannot be
    served, ConfigError for a revision of a folder and for another form than a converted folder has, and HubError for
    what cannot be brought here.
    """
    model, tokenizer = config.model, config.tokenizer
    revisions = {"revision": config.revision, "tokenizer_revision": config.tokenizer_revision}
    if not has_model:
        model = _path(config, model, "model", revisions, weights=weights, progress=progress)
    if tokenizer is not None:
        own = revisions["tokenizer_revision"] is None and config.tokenizer == config.model
        tokenizer = model if own else _path(config, tokenizer, "tokenizer", revisions, weights=False, progress=progress)
    speculation = config.speculation
    if speculation is not None and speculation.model and weights:
        draft = _path(config, speculation.model, "speculative_config.model", revisions, weights=True, progress=progress)
        config = replace(config, speculative_config={**config.speculative_config, "model": draft})
    given = next(((name, value) for name, value in revisions.items() if value is not None), None)
    if given is not None and not has_model:
        raise ConfigError(
            name=given[0], value=given[1], limit="what it is of is a folder, and that has none", fix="Leave it out"
        )
    if tokenizer is None and not has_model and is_gguf(Path(model)):
        from jaxpaged.weights.gguf_text import text_folder  # with numpy

        tokenizer = str(text_folder(Path(model)))
    found = replace(
        config, model=model, tokenizer=tokenizer, revision=None, tokenizer_revision=None, hf_token=None
    )  # fmt: skip
    return found if has_model or not is_converted(Path(model)) else _as_converted(found)


def shown_name(model: str | Path) -> str:
    """What a model's path is called, for people: owner and model where a hub's cache holds it, else its last part."""
    return snapshot_name(Path(model)) or Path(model).name or str(model)


def is_hub_name(model: str) -> bool:
    """Whether a text has the form owner/model."""
    return len(model) <= _LONGEST_NAME and _NAME.fullmatch(model) is not None


def _as_converted(config: EngineConfig) -> EngineConfig:
    """The same with the form in which the folder holds its weights. Raises ConfigError where another is asked for."""
    manifest = read_manifest(Path(config.model))
    held = {"dtype": manifest.dtype, "quantization": manifest.quantization}
    for name, value in held.items():
        if (asked := getattr(config, name)) not in (None, "auto", value):
            raise ConfigError(
                name=name,
                value=asked,
                limit=f"the model in {config.model} was converted with {value}",
                fix="Leave it out, or convert the model again: jaxpaged convert",
            )
    return replace(config, **held)


def _path(
    config: EngineConfig,
    given: str,
    option: str,
    revisions: dict[str, str | None],
    *,
    weights: bool,
    progress: Progress | bool,
) -> str:
    """Where the files of a model or tokenizer are. The revision that was made use of is taken out of `revisions`."""
    path = Path(given)
    holds_weights = option != "tokenizer"
    if path.is_dir() or (holds_weights and is_gguf(path)):
        return given
    if path.exists() and path.suffix == ".gguf" and holds_weights:
        limit = "it is no GGUF file: it does not begin as one"
        raise ModelError(name=option, value=given, limit=limit, fix="Download it again")
    if path.exists():
        raise ModelError(name=option, value=given, limit="it is a file, not a folder", fix=_FIX)
    if not is_hub_name(given):
        limit = "there is no such folder, and a model's name on the hub has the form org/name"
        raise ModelError(name=option, value=given, limit=limit, fix=_FIX)
    key = {"model": "revision", "tokenizer": "tokenizer_revision"}.get(option)  # a draft model has none
    revision = None if key is None else revisions[key]
    if key is not None:
        revisions[key] = None
    folder = download(
        given,
        option=option,
        revision=revision,
        token=config.hf_token,
        cache=config.download_dir,
        weights=weights,
        progress=progress,
    )
    return str(folder)
