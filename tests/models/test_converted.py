"""Converted folders: the bits of the model they were made of, whole or not there, and strict when they are read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import zlib
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax import Array

from jaxpaged.commands import convert, guarded
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, ModelError, OutputError, WeightsError
from jaxpaged.fingerprint import weights_identity
from jaxpaged.models.decoder import ParamSpec, build
from jaxpaged.models.families import read_config
from jaxpaged.progress import Advance
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer
from jaxpaged.weights.converted import load_converted, write_converted
from jaxpaged.weights.leaf import values_dtype
from jaxpaged.weights.load import LoadedModel, load_model, read_model_config
from jaxpaged.weights.manifest import MANIFEST, digest_of_file, read_manifest
from jaxpaged.weights.source import localised
from jaxpaged.weights.store import hold, store
from jaxpaged.whole_folder import take_place

SMALL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "max_position_embeddings": 64,
    "sliding_window": None,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / "config.json").write_text(json.dumps(SMALL))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def model(
    *, seed: int = 3, dtype: str = "float32", quantization: str | None = None, packed: bool = False
) -> LoadedModel:
    """Values that depend on the seed and the parameter alone."""
    config = read_config(SMALL)
    graph = build(config, dtype=dtype, quantization=quantization, packed=packed)

    def arrays_of(_: int, spec: ParamSpec, advance: Advance) -> tuple[Array, ...]:
        del advance
        rng = np.random.default_rng([seed, zlib.crc32(spec.path.encode())])
        return hold(spec, rng.standard_normal(spec.shape, np.float32).astype(values_dtype(spec)))

    leaves = store(graph.specs, arrays_of, phase="drawing", progress=False)
    return LoadedModel(config=config, dtype=dtype, quantization=quantization, graphdef=graph, leaves=leaves)


@pytest.fixture(scope="module")
def written(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In several parts."""
    folder = tmp_path_factory.mktemp("written") / "out"
    write_converted(folder, model(), source=source, part_bytes=100_000)
    assert len(list((folder / "leaves").iterdir())) > 2
    return folder


@pytest.fixture
def out(written: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    return Path(shutil.copytree(written, tmp_path / "out"))


def same(one: LoadedModel, other: LoadedModel) -> bool:
    assert one.graphdef.specs == other.graphdef.specs
    return all(
        np.array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))
        for a, b in zip(jax.tree.leaves(one.leaves), jax.tree.leaves(other.leaves), strict=True)
    )


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("float32", None), ("bfloat16", None), ("float32", "int8"), ("bfloat16", "int8")]
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_read_has_the_bits_of_what_was_written(
    source: Path, tmp_path: Path, dtype: str, quantization: str | None, packed: bool
) -> None:
    form: dict[str, Any] = {"dtype": dtype, "quantization": quantization}
    written = model(**form)
    assert write_converted(tmp_path / "out", written, source=source) == sum(leaf.nbytes for leaf in written.leaves)
    found = load_converted(tmp_path / "out", packed=packed, **form)
    assert same(found, model(**form, packed=packed))
    assert same(load_model(tmp_path / "out", packed=packed, **form), found)


def test_the_command_makes_a_folder_that_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert guarded(lambda: convert.main([str(TINY_MODEL), str(out)])) == 0
    told = capsys.readouterr().err
    assert "tiny in bfloat16, 0.01 GB; read at " in told
    assert "GB/s, written at " in told
    found = localised(EngineConfig(model=str(out)))
    assert (found.dtype, found.quantization) == ("bfloat16", None)
    assert same(load_model(out, dtype="bfloat16"), load_model(TINY_MODEL, dtype="bfloat16"))
    assert Tokenizer.load(out).encode("def f") == Tokenizer.load(TINY_MODEL).encode("def f")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_another_tokenizer_leaves_the_models_own_defaults(source: Path, tmp_path: Path) -> None:
    write_converted(tmp_path / "out", model(), source=source, texts=TINY_MODEL)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (TINY_MODEL / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == SMALL
    assert not (tmp_path / "out" / "generation_config.json").exists()  # the model has none


def test_the_manifest_keeps_what_a_mesh_would_ask_for(out: Path) -> None:
    leaves = {leaf.path: leaf for leaf in read_manifest(out).leaves}
    assert leaves["embed_tokens.weight"].axes == ("vocab", "embed")
    assert leaves["layers.0.moe.down_proj"].axes[0] == "experts"
    assert {leaf.dtype for leaf in leaves.values()} == {"float32"}


def test_its_identity_follows_its_weights(source: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_converted(tmp_path / name, model(seed=seed), source=source)
    first, again, other = (weights_identity(tmp_path / name) for name in "abc")
    assert first == again != other


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16': the model in .* was converted with float32. Leave it out"),
        ({"quantization": "int8"}, "quantization is 'int8': the model in .* was converted with None. Leave it out"),
    ],
)
def test_another_form_is_refused(out: Path, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        localised(EngineConfig(model=str(out), **asked))
    with pytest.raises(ModelError, match=told):
        load_converted(out, packed=False, **({"dtype": "float32", "quantization": None} | asked))


def read(out: Path) -> LoadedModel:
    return load_converted(out, dtype="float32", packed=False, quantization=None)


def largest(out: Path) -> Path:
    return max((path for path in (out / "leaves").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_manifest(out: Path, *, sign: bool = True, **changes: object) -> None:
    told = json.loads((out / MANIFEST).read_text())
    told |= changes
    if sign:
        from jaxpaged.weights import manifest

        del told["digest"]
        told["digest"] = manifest._digest_of(told)
    (out / MANIFEST).write_text(json.dumps(told))


def change_leaf(out: Path, **changes: object) -> None:
    first, *others = json.loads((out / MANIFEST).read_text())["leaves"]
    change_manifest(out, leaves=[first | changes, *others])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of a leaf": (lambda out: flip(largest(out)), "1 problem.*damaged: '.*' of part"),
    "a part cut short": (
        lambda out: largest(out).write_bytes(largest(out).read_bytes()[:-1000]),
        "leaves/0.*' *: it was edited or damaged since the model was converted|leaves/0.*it was edited or damaged",
    ),
    "a part that is gone": (lambda out: shutil.rmtree(out / "leaves" / "0001"), "leaves/0001/.*: No such file"),
    "the config": (
        lambda out: (out / "config.json").write_text(json.dumps(SMALL | {"rms_norm_eps": 0.1})),
        r"config\.json': it was edited or damaged since the model was converted",
    ),
    "a text that is gone": (lambda out: (out / "tokenizer.json").unlink(), r"tokenizer\.json': No such file"),
    "the manifest": (lambda out: change_manifest(out, sign=False, dtype="bfloat16"), "its digest is another"),
    "the manifest's form": (lambda out: change_manifest(out, leaves=3), "it is no manifest"),
    "a list for files": (lambda out: change_manifest(out, files=[]), r"it is no manifest: .*files"),
    "a size that is none": (lambda out: change_manifest(out, sizes={"x": "1"}), r"it is no manifest: .*sizes"),
    "a leaf that is none": (lambda out: change_manifest(out, leaves=[{"path": 1}]), r"it is no manifest: .*leaves"),
    "a key that is not known": (lambda out: change_manifest(out, more=1), "it is no manifest: it has keys that"),
    "a key of a leaf": (lambda out: change_leaf(out, more=1), "it is no manifest: it has keys that"),
    "a file outside": (
        lambda out: change_manifest(out, files={"../../x": ""}),
        r"jaxpaged\.json': it names '\.\./\.\./x', which is not in the folder",
    ),
    "an absolute name": (lambda out: change_manifest(out, sizes={"/etc/passwd": 1}), "it names '/etc/passwd', which"),
    "a name of the folder itself": (lambda out: change_manifest(out, sizes={".": 1}), r"it names '\.', which"),
    "a part outside": (lambda out: change_leaf(out, part="../.."), r"it names '\.\./\.\.', which"),
    "a name that no file has": (lambda out: change_manifest(out, sizes={"a\0b": 1}), "null byte"),
    "no JSON": (lambda out: (out / MANIFEST).write_text("{"), "it is not valid JSON"),
    "a newer format": (
        lambda out: change_manifest(out, format=2),
        r"format of .*jaxpaged\.json is 2: this version reads format 1\. Use the newer jaxpaged",
    ),
    "no manifest": (lambda out: (out / MANIFEST).unlink(), r"holds neither model\.safetensors nor"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_folder_is_refused(out: Path, what: str) -> None:
    spoil, told = SPOILED[what]
    spoil(out)
    with pytest.raises(ModelError, match=f"(?s){told}"):
        load_model(out, dtype="float32")


def test_leaves_that_do_not_fit_the_config_are_all_told(out: Path) -> None:
    (out / "config.json").write_text(json.dumps(SMALL | {"num_hidden_layers": 1, "vocab_size": 65}))
    told = json.loads((out / MANIFEST).read_text())
    change_manifest(out, files=told["files"] | {"config.json": digest_of_file(out / "config.json")})
    with pytest.raises(WeightsError) as refused:
        read(out)
    lines = str(refused.value)
    assert "unknown: 'layers.1.self_attn.o_proj.weight'" in lines
    assert "wrong shape: 'embed_tokens.weight' is [64, 64], the config makes it [65, 64]" in lines
    assert "wrong shape: 'lm_head.weight'" in lines


def test_of_many_problems_the_first_are_spelled_out(out: Path) -> None:
    told = json.loads((out / MANIFEST).read_text())
    more = [told["leaves"][0] | {"path": f"stranger {i} {'x' * 1000}"} for i in range(70)]
    change_manifest(out, leaves=told["leaves"] + more)
    with pytest.raises(WeightsError) as refused:
        read(out)
    lines = refused.value.limit.strip().splitlines()
    assert (refused.value.value, len(lines), lines[-1].strip()) == ("70 problems", 51, "and 20 more")
    assert max(map(len, lines)) < 250


def test_a_converted_model_is_replaced_and_nothing_else(out: Path, source: Path, tmp_path: Path) -> None:
    write_converted(out, model(seed=9), source=source)
    assert same(read(out), model(seed=9))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(OutputError, match="it is there, and no converted model"):
        write_converted(tmp_path / "full", model(), source=source)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "full"}


def test_a_place_that_is_taken_is_told_before_a_model_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    for place in (tmp_path, tmp_path / "mine"):
        with pytest.raises(OutputError, match=f"OUT is '{place}': it is there, and no converted model"):
            convert.main([str(tmp_path / "no-model"), str(place)])


class Interrupting:
    """A `Progress` that is interrupted at the second report."""

    def __init__(self) -> None:
        self.reports = 0

    @contextmanager
    def track(self, phase: str, *, total: int, unit: str) -> Iterator[Callable[[int], object]]:
        yield self.advance

    def advance(self, count: int) -> None:
        self.reports += 1
        if self.reports == 2:
            raise KeyboardInterrupt


def test_an_interruption_leaves_what_was_there(out: Path, source: Path, tmp_path: Path) -> None:
    for place in (out, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            write_converted(place, model(seed=9), source=source, part_bytes=100_000, progress=Interrupting())
    assert same(read(out), model())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("before", [True, False])
def test_an_interruption_of_the_renaming_leaves_a_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int, before: bool
) -> None:
    """Before or after either of the two."""
    part, out = tmp_path / "part", tmp_path / "out"
    for place in (part, out):
        place.mkdir()
        (place / place.name).touch()
    replace, done = os.replace, iter(range(1, 4))

    def interrupted(source: Path, target: Path) -> None:
        due = next(done) == calls
        if due and before:
            raise KeyboardInterrupt
        replace(source, target)
        if due:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take_place(part, out)
    assert [path.name for path in out.iterdir()] == ["part" if calls == 2 and not before else "out"]
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "part"}


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Writing more fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


# orbax leaves coroutines behind that wait for what has failed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with files_of_at_most(20_000), pytest.raises(OutputError, match=r"OUT is '.*out': .*\. Make room"):
        write_converted(tmp_path / "out", model(), source=source)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
    with pytest.raises(OutputError, match=r"its weights take 0\.00 GB, and there is room for 0\.00 GB"):
        write_converted(tmp_path / "out", model(), source=source)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_the_bytes(source: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []

    class Counting:
        @contextmanager
        def track(self, phase: str, *, total: int, unit: str) -> Iterator[Callable[[int], object]]:
            done: list[int] = []
            yield done.append
            assert sum(done) == total
            told.append((phase, total))

    total = write_converted(tmp_path / "out", model(), source=source, progress=Counting())
    load_converted(tmp_path / "out", dtype="float32", packed=True, quantization=None, progress=Counting())
    assert told == [("writing", total), ("loading", total)]
    assert read_model_config(tmp_path / "out").vocab == 64
