"""Programs compiled beforehand for one model, one setting and one kind of device: a folder that a container can hold.

An engine that starts from a bundle traces and compiles nothing. Whatever a program depends on is in the bundle's
fingerprint, and a difference is an error that names it: never a silent compilation. A bundle is code: loading one runs
it, so take none from strangers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

import jaxpaged
import pallas_kernels
from jaxpaged.combinations import KV_DTYPES
from jaxpaged.config import EngineConfig, ResolvedConfig
from jaxpaged.errors import ConfigError
from jaxpaged.weights.load import LoadedModel
from jaxpaged.whole_folder import whole_folder
from pallas_kernels.target import current_target
from pallas_kernels.tuning import Table, as_json

_FORMAT = 2
_INDEX = "bundle.json"
_FIX = "Compile it anew here: jaxpaged compile"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSettings:
    """The options of `EngineConfig` that programs depend on, with the values they were compiled for."""

    dtype: str
    quantization: str | None
    kv_cache_dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_gpu_blocks_override: int
    attention_backend: str

    @classmethod
    def of(cls, config: ResolvedConfig) -> BundleSettings:
        """The settings of an engine, in the words of `EngineConfig`."""
        words = {dtype: word for word, dtype in KV_DTYPES.items()}
        same = config.kv_cache_dtype == config.dtype
        return cls(
            dtype=config.dtype,
            quantization=config.quantization,
            kv_cache_dtype="auto" if same else words[config.kv_cache_dtype],
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            block_size=config.block_size,
            num_gpu_blocks_override=config.num_blocks,
            attention_backend=config.attention_backend,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that was read. fingerprint: what its programs depend on, by name. digests: SHA-256 of each program."""

    folder: Path
    fingerprint: Mapping[str, str]
    settings: BundleSettings
    digests: Mapping[str, str]

    def apply(self, config: EngineConfig) -> EngineConfig:
        """The options with everything left open as the bundle has it. Raises ConfigError for one that differs."""
        default = EngineConfig()
        for name, value in asdict(self.settings).items():
            asked = getattr(config, name)
            if asked not in (getattr(default, name), value):
                raise ConfigError(
                    name=name,
                    value=asked,
                    limit=f"the bundle {self.folder} was compiled for {value!r}",
                    fix="Leave it out, or compile a bundle with it",
                )
        return replace(config, **asdict(self.settings))

    def explain(self, config: ResolvedConfig) -> ResolvedConfig:
        """The same, with the bundle as the reason of what it decided."""
        return replace(config, reasons=dict.fromkeys(config.reasons, "the bundle's"))

    def check(self, here: Mapping[str, str]) -> None:
        """Raise ConfigError naming the first thing that is another than where the bundle was compiled."""
        for name in sorted({*self.fingerprint, *here}):
            theirs, ours = self.fingerprint.get(name, "nothing"), here.get(name, "nothing")
            if theirs != ours:
                raise ConfigError(
                    name=f"{name} of the bundle {self.folder}", value=theirs, limit=f"here it is {ours!r}", fix=_FIX
                )

    def of_draft(self) -> Bundle:
        """The programs of the draft model, a bundle within this one. Raises ConfigError where there is none."""
        return read_bundle(draft_folder(self.folder))

    def load(self, name: str, arguments: tuple[Any, ...], results: Any) -> jax.stages.Compiled:
        """A program of the bundle. arguments, results: trees of the form that it takes and gives.

        Raises ConfigError for a program that is missing or damaged.
        """
        path = self.folder / f"{name}.bin"
        try:
            payload = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                name="bundle", value=str(path), limit=error.strerror or str(error), fix="Compile it anew"
            ) from error
        if hashlib.sha256(payload).hexdigest() != self.digests.get(name):
            raise ConfigError(name="bundle", value=str(path), limit="it is damaged", fix="Copy or compile it anew")
        structures = jax.tree.structure((arguments, {})), jax.tree.structure(results)
        return serialize_executable.deserialize_and_load(payload, *structures, execution_devices=jax.devices()[:1])


def read_bundle(folder: str | Path) -> Bundle:
    """Read what a bundle says of itself. Raises ConfigError for a folder that is none."""
    path = Path(folder) / _INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != _FORMAT:
            raise ValueError(f"its format is {index['format']}, this version reads {_FORMAT}")
        settings = BundleSettings(**index["settings"])
        return Bundle(
            folder=Path(folder), fingerprint=index["fingerprint"], settings=settings, digests=index["programs"]
        )
    except OSError as error:
        raise ConfigError(
            name="bundle", value=str(folder), limit=f"{_INDEX}: {error.strerror or error}", fix=_FIX
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(name="bundle", value=str(path), limit=f"it is no bundle: {error!r}", fix=_FIX) from error


def draft_folder(folder: Path) -> Path:
    """Where a bundle keeps that of the draft model."""
    return folder / "draft"


def write_bundle(
    folder: Path, programs: Mapping[str, jax.stages.Compiled], *, fingerprint: Mapping[str, str], config: ResolvedConfig
) -> int:
    """Write compiled programs by name, in whole or not at all, over what is there; returns how many bytes they take.

    Raises ConfigError where the folder cannot be written, or holds anything that is no bundle.
    """
    if folder.exists() and not (folder / _INDEX).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(name="--output", value=str(folder), limit="it is there and no bundle", fix="Name another")
    digests: dict[str, str] = {}
    total = 0
    try:
        with whole_folder(folder) as part:
            for name, program in programs.items():
                payload, *_ = serialize_executable.serialize(program)
                (part / f"{name}.bin").write_bytes(payload)
                digests[name] = hashlib.sha256(payload).hexdigest()
                total += len(payload)
            index = {
                "format": _FORMAT,
                "fingerprint": dict(fingerprint),
                "settings": asdict(BundleSettings.of(config)),
                "programs": digests,
            }
            (part / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(name="--output", value=str(folder), limit=error.strerror or str(error)) from error
    return total


def fingerprint_of(model: LoadedModel, *, tuning: Table, machine: str) -> dict[str, str]:
    """What programs of this model depend on here, beside the settings. machine: a digest of the CPU that runs them."""
    target = current_target()
    specs = [(spec.shape, str(spec.dtype), str(spec.storage), spec.packed) for spec in model.graphdef.specs]
    plugins = {name: version(name) for name in ("jax", "jaxlib")}
    return {
        **plugins,
        "platform": f"{target.platform} {jax.devices()[0].client.platform_version}",
        "device": target.kind or machine,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "model": _digest(f"{model.config!r} {model.dtype} {specs}".encode()),
        "tuning": _digest(as_json(tuning).encode()),
        "code": _code_digest(),
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _code_digest() -> str:
    """Of everything of ours that is traced or compiled."""
    engine, kernels = (Path(module.__file__ or "").parent for module in (jaxpaged, pallas_kernels))
    files = [engine / name for name in ("batch.py", "limits.py", "programs.py", "sampler.py", "scoring.py")]
    files += [path for folder in (engine / "models", kernels) for path in folder.rglob("*") if path.is_file()]
    found = hashlib.sha256()
    for path in sorted(path for path in files if path.suffix in {".py", ".json", ".cc", ".h"}):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


assert {field.name for field in fields(BundleSettings)} <= {field.name for field in fields(EngineConfig)}
