"""The same model in `transformers`, float32 on the CPU: what the certificate compares with.

torch and transformers are imported when an `Oracle` is made, by name: nothing else of this package needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxpaged.errors import ConfigError, ModelError

PACKAGES = ("torch", "transformers")


def require_packages() -> None:
    """Raise ConfigError naming what to install where torch or transformers is not there."""
    for name in PACKAGES:
        if find_spec(name) is None:
            raise ConfigError(
                name=name,
                value=None,
                limit="it is not installed, and the certificate compares with the model in transformers",
                fix='pip install "torch>=2.6" "transformers>=5.20,<6"; the CPU build of torch is enough',
            )


def package_versions() -> dict[str, str]:
    """Of the oracle's packages."""
    return {name: version(name) for name in PACKAGES}


class Oracle:
    """A causal language model of transformers, eager attention, never with code of the folder's own.

    length: what every text is filled up to with tokens that nothing before them sees. transformers chooses some rotary
    embeddings (longrope) by the length of each text, a server once, by the longest that it may meet.
    Raises ConfigError where torch or transformers is missing, ModelError where transformers cannot load the folder.
    """

    def __init__(self, folder: str | Path, *, length: int = 0) -> None:
        require_packages()
        self._length = length
        self._torch, transformers = import_module("torch"), import_module("transformers")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        try:
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=self._torch.float32,
                attn_implementation="eager",
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
            ).eval()
        except Exception as error:  # whatever transformers meets in a folder
            raise ModelError(
                name="model", value=str(folder), limit=f"transformers cannot load it: {' '.join(str(error).split())}"
            ) from error
        self._layers = _decoder_layers(self._model)

    @property
    def num_layers(self) -> int:
        """Decoder layers that were found."""
        return len(self._layers)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """f32[n, V] of a text of n tokens, its start at position 0, in one forward pass without a cache."""
        return self._forward(ids).logits[0, : len(ids)].float().numpy()

    def residuals(self, ids: Sequence[int], *, without_attention: int | None = None) -> list[np.ndarray]:
        """The residual stream f32[n, E] before the first layer, after each, and after the final norm.

        without_attention: a layer whose attention adds nothing.
        """
        kept: list[Any] = []
        with ExitStack() as hooks:
            if without_attention is not None:
                hooks.enter_context(_hook(_attention_of(self._layers[without_attention]), _nothing))
            hooks.enter_context(_pre_hook(self._layers[0], kept.append))
            for layer in self._layers:
                hooks.enter_context(_hook(layer, lambda output: kept.append(_first(output))))
            found = self._forward(ids, output_hidden_states=True)
        return [array[0, : len(ids)].float().numpy() for array in (*kept, found.hidden_states[-1])]

    def _forward(self, ids: Sequence[int], **options: Any) -> Any:
        filled = [*ids, *[0] * (self._length - len(ids))]
        with self._torch.inference_mode():
            return self._model(input_ids=self._torch.tensor([filled]), use_cache=False, **options)


def _decoder_layers(model: Any) -> list[Any]:
    """The list of as many modules as the config has layers, each with attention in it."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        children = list(module.children())
        if type(module).__name__ == "ModuleList" and len(children) == count and _attention_of(children[0]) is not None:
            return children
    raise ModelError(
        name="model", value=type(model).__name__, limit=f"its {count} layers cannot be found in transformers' model"
    )


def _attention_of(layer: Any) -> Any:
    """The child that is attention, by the name of its class; None where there is none."""
    return next((child for child in layer.children() if "Attention" in type(child).__name__), None)


def _first(output: Any) -> Any:
    """The hidden states of what a layer returns."""
    return output[0] if isinstance(output, tuple) else output


def _nothing(output: Any) -> Any:
    """A module's output with zeros in place of its hidden states."""
    return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0


@contextmanager
def _removed(handle: Any) -> Any:
    try:
        yield
    finally:
        handle.remove()


def _hook(module: Any, action: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    """While open, `action` sees the module's output; what it returns, unless None, takes its place."""
    return _removed(module.register_forward_hook(lambda _module, _inputs, output: action(output)))


def _pre_hook(module: Any, action: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    """While open, `action` sees the module's first input."""

    def before(_module: Any, inputs: Any, keywords: Any) -> None:
        action(inputs[0] if inputs else keywords["hidden_states"])

    return _removed(module.register_forward_pre_hook(before, with_kwargs=True))
