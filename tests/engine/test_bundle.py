"""Programs compiled beforehand: a start from a bundle traces and compiles nothing, and a mismatch is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from inherited import inherited
from jaxpaged_server.cli import main

from jaxpaged.bundle import read_bundle, write_bundle
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams
from jaxpaged.warmup import no_compile_cache

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {"max_num_seqs": 8, "max_model_len": 128, "max_num_batched_tokens": 128}
PARAMS = SamplingParams(temperature=0.8, seed=1, max_tokens=8, ignore_eos=True, presence_penalty=0.5, logprobs=1)
SCORED = replace(PARAMS, prompt_logprobs=1)
CHILD = """
import json, sys
from jax import monitoring
seen = []
monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.append(event))
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams
options = {"ignore_eos": True, "presence_penalty": 0.5, "logprobs": 1, "prompt_logprobs": 1}
params = SamplingParams(temperature=0.8, seed=1, max_tokens=8, **options)
engine = LLMEngine(EngineConfig(bundle=sys.argv[1], warmup=sys.argv[2] == "warm", compile_cache="off"))
engine.submit("def add(a, b):", params, output_kind=OutputKind.FINAL_ONLY)
done = []
while engine.has_unfinished:
    done += engine.step()
compiled = [event for event in seen if event.startswith("/jax/core/compile")]
of_prompt = [place and list(place) for place in done[0].prompt_logprobs]
sizes = [engine.config.max_num_seqs, engine.config.num_blocks]
print(json.dumps([compiled, done[0].outputs[0].token_ids, of_prompt, sizes]))
"""


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    with no_compile_cache():
        return LLMEngine(EngineConfig(dtype="float32", compile_cache="off", **SIZES))


@pytest.fixture(scope="module")
def bundle(engine: LLMEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "deep" / "tiny"
    runner = engine.runner
    assert write_bundle(folder, runner.programs, fingerprint=runner.fingerprint, config=engine.config) > 10**5
    assert {path.name for path in folder.parent.iterdir()} == {"tiny"}  # nothing half-written beside it
    return folder


@pytest.mark.parametrize("warm", ["warm", "lazy"])
def test_a_start_from_a_bundle_traces_and_compiles_nothing(engine: LLMEngine, bundle: Path, warm: str) -> None:
    ran = subprocess.run([sys.executable, "-c", CHILD, str(bundle), warm], capture_output=True, text=True, check=True)
    compiled, tokens, of_prompt, sizes = json.loads(ran.stdout)
    assert compiled == []
    engine.submit("def add(a, b):", SCORED, output_kind=OutputKind.FINAL_ONLY)
    done = []
    while engine.has_unfinished:
        done += engine.step()
    assert tokens == list(done[0].outputs[0].token_ids)
    assert of_prompt == [place and list(place) for place in done[0].prompt_logprobs]
    assert sizes == [8, engine.config.num_blocks]


def test_what_is_left_open_is_the_bundles_and_what_differs_is_refused(bundle: Path) -> None:
    applied = read_bundle(bundle).apply(EngineConfig(max_num_seqs=8))
    assert (applied.max_model_len, applied.dtype, applied.kv_cache_dtype) == (128, "float32", "auto")
    with pytest.raises(ConfigError, match=r"max_num_seqs is 4: the bundle .* was compiled for 8"):
        LLMEngine(EngineConfig(bundle=str(bundle), max_num_seqs=4, compile_cache="off"))


def test_another_place_is_named(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    index = json.loads((copy / "bundle.json").read_text())
    index["fingerprint"]["jaxlib"] = "0.9.9"
    (copy / "bundle.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"jaxlib of the bundle .* is '0\.9\.9': here it is '.*Compile it anew"):
        LLMEngine(EngineConfig(bundle=str(copy), compile_cache="off"))


def test_a_damaged_or_missing_program_is_named(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "step-8x8.bin").write_bytes(b"nothing")
    (copy / "step-128x8.bin").unlink()
    loaded = LLMEngine(EngineConfig(bundle=str(copy), warmup=False, compile_cache="off"))
    buckets = {(bucket.tokens, bucket.rows): bucket for bucket in loaded.buckets}
    with pytest.raises(ConfigError, match=r"step-8x8\.bin.*damaged"):
        loaded.runner.compile(buckets[8, 8])
    with pytest.raises(ConfigError, match=r"step-128x8\.bin.*No such file"):
        loaded.runner.compile(buckets[128, 8])


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "bundle.json: No such file"), ("[]", "it is no bundle"), ('{"format": 99}', "its format is 99")],
)
def test_a_folder_that_is_no_bundle(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(ConfigError, match=told):
        read_bundle(tmp_path)


def test_a_bundle_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, engine: LLMEngine) -> None:
    folder = tmp_path / "bundle"
    write_bundle(folder, {}, fingerprint={}, config=engine.config)
    before = (folder / "bundle.json").read_bytes()
    with pytest.raises(AttributeError):  # what is no program cannot be written
        write_bundle(folder, {"step": None}, fingerprint={}, config=engine.config)  # pyright: ignore[reportArgumentType]
    assert (folder / "bundle.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_with_other_things_is_left_alone(engine: LLMEngine, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="it is there and no bundle"):
        write_bundle(tmp_path, engine.runner.programs, fingerprint={}, config=engine.config)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.long
def test_what_the_compile_cache_has_is_compiled_for_a_bundle(tmp_path: Path) -> None:
    """Where an engine has left the same programs in the cache."""
    shape = ["--dtype", "float32", "--max-num-seqs", "4", "--max-model-len", "64", "--max-num-batched-tokens", "68"]
    shape += ["--num-gpu-blocks-override", "20"]
    environ = inherited() | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")]),
        "XDG_CACHE_HOME": str(tmp_path),
    }

    def said(*words: str) -> str:
        command = [sys.executable, "-m", "jaxpaged_server.cli", *words, "--quiet"]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout

    wanted = said("generate", "def f", "--max-tokens", "4", *shape)
    bundle = str(tmp_path / "bundle")
    said("compile", "-o", bundle, *shape)
    assert said("generate", "def f", "--max-tokens", "4", "--bundle", bundle) == wanted


def test_no_program_of_a_bundle_comes_from_the_compile_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enabled: list[Any] = []

    def start(config: EngineConfig, *, quiet: bool) -> None:
        enabled.append(jax.config.jax_enable_compilation_cache)  # pyright: ignore[reportAttributeAccessIssue]
        raise ConfigError(name="no", value="engine", limit="here")

    monkeypatch.setattr("jaxpaged.commands.compile.start_engine", start)
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    assert main(["compile", "-o", str(tmp_path / "bundle")]) == 2
    assert enabled == [False]
    assert jax.config.jax_enable_compilation_cache == before  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("somewhere --model elsewhere -o x", "--model is 'elsewhere': the command names somewhere, too"),
        ("-o x --bundle y", "--bundle is 'y': this command makes bundles"),
        ("no-such-folder -o x", "no-such-folder"),
    ],
)
def test_commands_that_cannot_be(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", *line.split()]) == 2
    assert told in capsys.readouterr().err


def test_an_early_start_serves_with_the_largest_shapes_and_then_with_all() -> None:
    early = LLMEngine(EngineConfig(dtype="float32", compile_cache="off", early_start=True, **SIZES))
    wanted = {"step-8x8", "step-128x8", "sampler-8", "pick-8", "pick-128", "score", "copy", "pool"}
    assert wanted <= set(early.runner.programs)
    early.submit("def add(a, b):", SCORED, output_kind=OutputKind.FINAL_ONLY)
    while early.has_unfinished:
        early.step()
    while early._early is not None:
        early.submit("x", PARAMS)
        while early.has_unfinished:
            early.step()
    assert list(early.scheduler.buckets) == list(early.buckets)
    assert early.metrics.compiles_after_ready == 0
