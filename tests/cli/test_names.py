"""A model's name instead of a folder, through every door: the commands, the engine, the server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import COMMITS, StandIn, standing_in
from jaxpaged_server import lifecycle
from jaxpaged_server.settings import ServerConfig

from jaxpaged.commands import chat, generate, guarded, plan, verify
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.verify import oracle

NAME = "org/tiny"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    files = {path.name: path.read_bytes() for path in TINY_MODEL.iterdir() if path.suffix in (".json", ".safetensors")}
    with standing_in(StandIn(models={NAME: {COMMITS["v2"]: files}}, gated={NAME})) as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield stand_in


@pytest.mark.parametrize("command", [generate, chat])
def test_commands_take_a_name(
    command: Any, hub: StandIn, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[EngineConfig] = []

    def start(config: EngineConfig, *, quiet: bool) -> Any:
        started.append(config)
        return engine

    monkeypatch.setattr(command, "start_engine", start)
    monkeypatch.setattr("builtins.input", lambda _: (_ for _ in ()).throw(EOFError))
    words = ["--model", NAME, "--revision", "v2", "--hf-token", hub.token, "--download-dir", str(tmp_path), "--quiet"]
    assert command.main([*words, *(["ab"] if command is generate else [])]) == 0
    assert Path(started[0].model).name == COMMITS["v2"]
    assert started[0].hf_token is None


def test_what_does_not_go_together_is_told_before_anything_is_fetched(hub: StandIn) -> None:
    with pytest.raises(ConfigError, match="give either prompts, or --input and --output"):
        generate.main(["--model", NAME])
    assert hub.asked == []


def test_a_plan_takes_a_name(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert plan.main(["--model", NAME, "--revision", "v2", "--download-dir", str(tmp_path), "--device", "h100"]) == 0
    assert f"{NAME} (LlamaForCausalLM)" in capsys.readouterr().out
    assert "config.json" in hub.files_asked
    assert "model.safetensors" not in hub.files_asked


def test_an_engine_takes_a_name(hub: StandIn, tmp_path: Path) -> None:
    asked = EngineConfig(
        model=NAME, revision="v2", hf_token=hub.token, download_dir=str(tmp_path), warmup=False, max_num_seqs=1
    )
    engine = LLMEngine(asked)
    assert dict(engine.describe())["model"] == f"{NAME} (LlamaForCausalLM)"
    assert engine.tokenizer.decode(engine.tokenizer.encode("def f():")) == "def f():"


def test_a_server_fetches_before_it_listens(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = list(logging.getLogger().handlers)
    given: list[EngineConfig] = []

    async def serve(engine_config: EngineConfig, server_config: ServerConfig) -> int:
        given.append(engine_config)
        return 7

    monkeypatch.setattr(lifecycle, "_serve", serve)
    asked = EngineConfig(model=NAME, revision="v2", hf_token=hub.token, download_dir=str(tmp_path))
    try:
        assert lifecycle.serve(asked, ServerConfig()) == 7
    finally:
        logging.getLogger().handlers[:] = handlers
    assert ServerConfig().model_names(given[0].model) == (NAME,)
    assert given[0].hf_token is None


def test_verify_takes_what_transformers_can_read(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"MODEL is '.*x\.gguf': transformers has to read the same files"):
        verify.main([str(tmp_path / "x.gguf"), "--tokenizer", str(TINY_MODEL)])


def test_verify_looks_for_its_packages_before_it_fetches(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="torch is None: it is not installed"):
        verify.main([NAME, "--quiet"])
    assert hub.asked == []


def test_a_refusal_is_one_line(hub: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", NAME, "--revision", "v2", "--download-dir", str(tmp_path), "x"]
    assert guarded(lambda: generate.main(words)) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: model is '{NAME}': its owners grant access one by one")
    assert told.count("\n") == 1
