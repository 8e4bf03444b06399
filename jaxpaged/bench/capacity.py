"""What of a model fits on a device, here or not: the engine's own arithmetic, with no weights loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from jaxpaged.bench.shapes import SHAPES, shape_config
from jaxpaged.bench.sheets import DEVICE_SHEETS, DeviceSheet
from jaxpaged.config import EngineConfig, ResolvedConfig
from jaxpaged.device import Device, claim_share, gib, this_device
from jaxpaged.errors import ConfigError
from jaxpaged.loaded_draft import draft_choice
from jaxpaged.memory import DraftPool, resolve, resolve_combination, resolve_dtype
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import build
from jaxpaged.models.families import read_config
from jaxpaged.speculation.config import OPTION
from jaxpaged.weights.folder import is_gguf
from jaxpaged.weights.load import read_model_config
from pallas_kernels.target import Target, assume_target, current_target

HERE = ("here", "cpu")
"""Names of JAX's first device: whatever it is, and only if it is a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the engine would be. sheet: of the device, None for a CPU or one without. is_here: it is JAX's own.

    weight_bytes: of the draft model, too, which are draft_bytes; draft_block_bytes: what it keeps in a KV block.
    """

    model: ModelConfig
    config: ResolvedConfig
    device: Device
    sheet: DeviceSheet | None
    is_here: bool
    weight_bytes: int
    dtype_reason: str
    draft_bytes: int = 0
    draft_block_bytes: int = 0


def capacity(options: EngineConfig, device: str) -> Capacity:
    """Resolve the options for a device: a name in `DEVICE_SHEETS`, or one of `HERE`. options.model: a name in `SHAPES`,
    a config.json or a model folder.

    Raises ConfigError for an unknown device, for weights or blocks that do not fit and for options that cannot be;
    ModelError for a model that cannot be served.
    """
    is_here = device in HERE
    if not is_here and device not in DEVICE_SHEETS:
        raise ConfigError(
            name="--device", value=device, limit=f"it is neither {' nor '.join(HERE)} nor one of "
            f"{', '.join(DEVICE_SHEETS)}", fix="Name one of these",
        )  # fmt: skip
    model = read_shape(options.model, context=options.max_model_len)
    if is_here:
        return _resolved(options, model, _own_device(device, options.memory_share), None, is_here=True)
    sheet = DEVICE_SHEETS[device]
    with assume_target(Target(platform=sheet.platform, kind=sheet.kind)):
        return _resolved(options, model, _absent_device(sheet, options.memory_share), sheet, is_here=False)


def read_shape(model: str, *, context: int | None = None, option: str = "--model") -> ModelConfig:
    """The model of a named shape, a config.json, a GGUF file or a folder. context: see `read_config`. option: what it
    was named by.

    Raises ConfigError or ModelError for what is none.
    """
    if is_gguf(Path(model)):
        return read_model_config(model, context=context)
    if model in SHAPES or Path(model).is_file():
        return read_config(shape_config(model), context=context)
    if not Path(model).is_dir():
        raise ConfigError(
            name=option,
            value=model,
            limit=f"it is no folder, no config.json and none of {', '.join(SHAPES)}",
            fix="Name a shape, or give the folder of a model in Hugging Face layout",
        )
    return read_model_config(model, context=context)


def _resolved(
    options: EngineConfig, model: ModelConfig, device: Device, sheet: DeviceSheet | None, *, is_here: bool
) -> Capacity:
    dtype, why = resolve_dtype(options.dtype, model.dtype, device)
    own_bytes = build(model, dtype=dtype, quantization=options.quantization).nbytes
    draft_bytes, pool = _draft(options, model, device, dtype)
    weight_bytes = own_bytes + draft_bytes
    held_as = options.quantization or dtype
    if weight_bytes >= device.free_bytes:
        raise ConfigError(
            name="--model",
            value=options.model,
            limit=f"its weights take {gib(weight_bytes)} in {held_as}, and {device.name} has {gib(device.free_bytes)} "
            f"for an engine, of {gib(device.total_bytes)}",
            fix="Use a smaller model" + (", --dtype bfloat16" if held_as == "float32" else "") + " or a larger device",
        )
    loaded = replace(device, free_bytes=device.free_bytes - weight_bytes)
    return Capacity(
        model=model,
        config=resolve(options, model, loaded, dtype=dtype, weight_bytes=weight_bytes, draft=pool),
        device=device,
        sheet=sheet,
        is_here=is_here,
        weight_bytes=weight_bytes,
        dtype_reason=why,
        draft_bytes=draft_bytes,
        draft_block_bytes=pool.block_bytes if pool else 0,
    )


def _draft(options: EngineConfig, model: ModelConfig, device: Device, dtype: str) -> tuple[int, DraftPool | None]:
    """Bytes of the draft model's weights, and what it keeps in a block; none where there is none."""
    if options.speculation is None or not options.speculation.model:
        return 0, None
    name = f"{OPTION}.model"
    draft = read_shape(options.speculation.model, context=options.max_model_len, option=name)
    draft = replace(draft, one_kv_group=True)
    served = resolve_combination(options, model, device, dtype=dtype)
    choice = draft_choice(options, draft, served, device, dtype=dtype)
    return build(draft, dtype=dtype).nbytes, DraftPool.of(draft, device, choice)


def _own_device(name: str, share: float) -> Device:
    claim_share(share)
    device = this_device()
    if name == "cpu" and device.platform != "cpu":
        raise ConfigError(
            name="--device", value=name, limit=f"JAX runs on {device.name} here", fix="Set JAX_PLATFORMS=cpu"
        )
    return device


def _absent_device(sheet: DeviceSheet, share: float) -> Device:
    """As the engine would find it: with nobody else on it, and the share asked for claimed from JAX's allocator."""
    limit = int(sheet.memory_bytes * share)
    return Device(
        platform=sheet.platform,
        name=current_target().kind,
        free_bytes=limit,
        total_bytes=sheet.memory_bytes,
        limit_bytes=limit,
        bfloat16_unit="",
        compute_capability=sheet.compute_capability,
    )
