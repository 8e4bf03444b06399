"""A case as a model folder, and transformers' own model read from that folder: the oracle of every test.

transformers and torch are imported only when a model is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from families.case import ABSENT, Case

_AGREES = 1e-5  # of the largest logit: the folder read back against the model that was saved
_PROBE = 160  # tokens; beyond every window and every rope's original context


def make_folder(folder: Path, case: Case, *, seed: int = 0, max_shard_size: str = "5GB") -> Any:
    """Write the case as a model folder; returns the model as transformers reads it from there, float32, eager.

    A config.json that does not give back the model that was drawn is a mistake of the case: AssertionError.
    """
    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind = getattr(transformers, case.architecture)
    # copies: transformers writes into what it is given
    config = kind.config_class(**json.loads(json.dumps(dict(case.config))))
    config._attn_implementation = config._experts_implementation = "eager"
    drawn = kind(config).eval().float()
    draw(drawn, seed=seed)
    drawn.save_pretrained(folder, max_shard_size=max_shard_size)
    rewrite(folder / "config.json", case)
    oracle = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    probe = [(7 * i + 3 * i * i) % case.vocab for i in range(_PROBE)]
    wanted, found = oracle_logits(drawn, probe), oracle_logits(oracle, probe)
    worst = float(np.abs(wanted - found).max() / np.abs(wanted).max())
    assert worst < _AGREES, f"{case.name}: transformers reads another model out of this config.json ({worst:.1e})"
    return oracle


def oracle_logits(model: Any, token_ids: list[int]) -> np.ndarray:
    """f32[T, V] of a transformers model."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([token_ids])).logits[0].numpy()


def draw(model: Any, *, seed: int) -> None:
    """Random weights, each drawn so that leaving it out shows: no parameter keeps zeros or ones.

    What the constructor filled with ones, or calls a norm, is drawn around its first value; biases and other vectors
    (sinks, scores' corrections) get values that matter beside what they are added to; of matrices every output has a
    variance of about 2, so that attention looks somewhere and logits differ.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor, transposed in _tensors(model):
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("bias"):
                tensor.copy_(0.5 * noise)
            elif tensor.ndim == 1:
                first = tensor[0].item()
                norm = _is_norm(name) or bool((tensor == 1).all())
                tensor.copy_(round(first) + 0.3 * noise if norm else 2.0 * noise)
            else:
                ins = tensor.shape[-2 if transposed else -1]
                tensor.copy_(1.5 * ins**-0.5 * noise)


def unseen(model: Any, *, threshold: float) -> list[str]:
    """Names of what could be left out (a norm's weight at one value, all else zero) without a logit moving by more than
    `threshold` of the largest."""
    import torch

    probe = [(7 * i + 3 * i * i) % model.config.vocab_size for i in range(_PROBE)]
    before, found = oracle_logits(model, probe), []
    for name, tensor, _ in _tensors(model):
        with torch.no_grad():
            kept = tensor.clone()
            norm = tensor.ndim == 1 and _is_norm(name) and not name.endswith("bias")
            tensor.fill_(round(tensor.mean().item()) if norm else 0.0)
            moved = np.abs(oracle_logits(model, probe) - before).max() / np.abs(before).max()
            tensor.copy_(kept)
        if moved <= threshold:
            found.append(name)
    return found


def _is_norm(name: str) -> bool:
    return "norm" in name or ".ln_" in name


def _tensors(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """(name, tensor, whether it is held [ins, outs]) of all parameters, and of the buffers that are saved with them."""
    from transformers.pytorch_utils import Conv1D

    transposed = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, Conv1D) or getattr(module, "is_transposed", False)
        for name, _ in module.named_parameters(recurse=False)
    }
    for name, parameter in model.named_parameters():
        yield name, parameter, name in transposed
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in saved and buffer.is_floating_point():
            yield name, buffer, False


def rewrite(path: Path, case: Case) -> None:
    """Bring the config.json that transformers 5 wrote into the case's own style."""
    config = json.loads(path.read_text())
    if case.old_style:
        config = old_style(config)
    config |= case.keys
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ABSENT}))


def old_style(config: dict[str, Any]) -> dict[str, Any]:
    """As transformers 4 wrote it: torch_dtype, rope_theta and rope_scaling, partial_rotary_factor beside them, and no
    layer_types. Of ropes by layer type, rope_theta and rope_scaling are the full layers', and where the sliding ones
    have another theta, it is rope_local_base_freq (gemma3)."""
    config = {key: value for key, value in config.items() if key != "layer_types" and not key.startswith("_")}
    config["torch_dtype"] = config.pop("dtype")
    ropes = config.pop("rope_parameters", None)
    if not ropes:
        return config
    word = "type"
    if "full_attention" in ropes:
        ropes, local = ropes["full_attention"], ropes["sliding_attention"]["rope_theta"]
        word = "rope_type"  # the only one of the two that these families know
        if local != ropes["rope_theta"]:
            config["rope_local_base_freq"] = local
    config["rope_theta"] = ropes.pop("rope_theta")
    kind = ropes.pop("rope_type")
    if (share := ropes.pop("partial_rotary_factor", None)) is not None:
        config["partial_rotary_factor"] = share
    config["rope_scaling"] = None if kind == "default" else {word: kind, **ropes}
    return config
