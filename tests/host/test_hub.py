"""Models by name: what is fetched, what is kept, what is said when it cannot be. The hub is `hub_stand_in`."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_stand_in import COMMITS, StandIn, standing_in

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, HubError, ModelError, UnsupportedModelError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.weights import hub_errors
from jaxpaged.weights.hub import download, snapshot_name
from jaxpaged.weights.source import is_hub_name, localised, shown_name

MAIN, V2 = COMMITS["main"], COMMITS["v2"]
NAME = "org/tiny"
TEXTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
Download = Callable[..., Path]


def texts() -> dict[str, bytes]:
    return {name: (TINY_MODEL / name).read_bytes() for name in TEXTS}


def sharded() -> dict[str, bytes]:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    weights = {"model-1.safetensors": b"1" * 300_000, "model-2.safetensors": b"2" * 300_000}
    return texts() | weights | {"model.safetensors.index.json": json.dumps(index).encode()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    unwanted = {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "original/model.safetensors": b"twice"}
    first = texts() | unwanted | {"model.safetensors": (TINY_MODEL / "model.safetensors").read_bytes()}
    second = texts() | {"model.safetensors": b"second"}
    models = {NAME: {MAIN: first, V2: second}, "org/sharded": {MAIN: sharded()}}
    with standing_in(StandIn(models=models)) as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.address)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent")
        yield stand_in


@pytest.fixture
def fetch(tmp_path: Path) -> Download:
    def fetched(name: str = NAME, **options: Any) -> Path:
        return download(name, cache=str(tmp_path / "cache"), **options)

    return fetched


def test_what_is_needed_is_fetched_and_nothing_else(hub: StandIn, fetch: Download) -> None:
    folder = fetch()
    assert sorted(hub.files_asked) == sorted([*TEXTS, "model.safetensors"])
    for name in (*TEXTS, "model.safetensors"):
        assert (folder / name).read_bytes() == (TINY_MODEL / name).read_bytes()
    assert {path.name for path in folder.rglob("*")} == {*TEXTS, "model.safetensors"}


def test_a_second_start_asks_for_no_file(hub: StandIn, fetch: Download) -> None:
    folder = fetch()
    hub.asked.clear()
    assert fetch() == folder
    assert [one.path for one in hub.asked] == [f"/api/models/{NAME}"]  # which commit it is by now
    hub.asked.clear()
    assert fetch(revision=MAIN) == folder
    assert hub.asked == []  # a commit is one for ever


def test_every_file_is_of_one_commit_though_the_branch_moves_on(
    hub: StandIn, fetch: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    resolve = HfApi.resolve_revision

    def moving(self: HfApi, *args: Any, **kwargs: Any) -> Any:
        found = resolve(self, *args, **kwargs)
        monkeypatch.setitem(COMMITS, "main", V2)
        return found

    monkeypatch.setattr(HfApi, "resolve_revision", moving)
    folder = fetch()
    assert folder.name == MAIN
    assert (folder / "model.safetensors").stat().st_size == (TINY_MODEL / "model.safetensors").stat().st_size
    assert all(f"/resolve/{MAIN}/" in one.path for one in hub.asked if "/resolve/" in one.path)


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: StandIn, fetch: Download) -> None:
    assert fetch(revision="v2").name == V2
    assert (fetch(revision=V2) / "model.safetensors").read_bytes() == b"second"
    with pytest.raises(HubError, match=rf"revision is 'v3': of {NAME}: it has no such revision.*{hub.address}/{NAME}"):
        fetch(revision="v3")


def test_a_tokenizer_alone_brings_no_weights(hub: StandIn, fetch: Download) -> None:
    fetch(weights=False, option="tokenizer")
    assert sorted(hub.files_asked) == sorted(TEXTS)


def test_an_older_tokenizer_is_fetched_where_there_is_no_newer_one(hub: StandIn, fetch: Download) -> None:
    old = {"tokenizer.model": b"pieces", "vocab.json": b"{}"}
    hub.models[NAME][MAIN] |= old
    fetch()
    assert not old.keys() & set(hub.files_asked)
    del hub.models[NAME][V2]["tokenizer.json"]
    hub.models[NAME][V2] |= old
    folder = fetch(revision="v2")
    assert (folder / "tokenizer.model").read_bytes() == b"pieces"
    assert old.keys() < set(hub.files_asked)


def test_shards_are_those_of_the_index(hub: StandIn, fetch: Download) -> None:
    hub.models["org/sharded"][MAIN] = sharded() | {"consolidated.safetensors": b"the same again"}
    folder = fetch("org/sharded")
    assert "consolidated.safetensors" not in hub.files_asked
    assert (folder / "model-2.safetensors").read_bytes() == b"2" * 300_000


@pytest.mark.parametrize("named", ["../../etc/passwd", "model-3.safetensors", "code.py"])
def test_an_index_that_names_strange_files_is_refused(hub: StandIn, fetch: Download, named: str) -> None:
    index = json.dumps({"weight_map": {"a": named}}).encode()
    hub.models["org/sharded"][MAIN] = sharded() | {"model.safetensors.index.json": index, "code.py": b""}
    with pytest.raises(HubError, match=f"its model.safetensors.index.json names {named}"):
        fetch("org/sharded")


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"model.gguf": b""}, "it has GGUF files and no safetensors"),
        ({"pytorch_model.bin": b""}, "pickles alone"),
        ({}, r"neither model\.safetensors nor model\.safetensors\.index\.json"),
    ],
)
def test_a_model_without_safetensors_is_told_what_it_has(
    hub: StandIn, fetch: Download, files: dict[str, bytes], limit: str
) -> None:
    hub.models[NAME][MAIN] = texts() | files
    with pytest.raises(HubError, match=limit):
        fetch()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "architectures is 'MambaForCausalLM': implemented are"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.X"}}, "auto_map is "),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_before_its_weights_come(
    hub: StandIn, fetch: Download, changes: dict[str, Any], told: str
) -> None:
    config = json.loads((TINY_MODEL / "config.json").read_text()) | changes
    hub.models[NAME][MAIN]["config.json"] = json.dumps(config).encode()
    with pytest.raises(UnsupportedModelError, match=told):
        fetch()
    assert "model.safetensors" not in hub.files_asked


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: StandIn, fetch: Download) -> None:
    hub.gated.add(NAME)
    with standing_in(StandIn(models=hub.models)) as storage:
        hub.elsewhere = storage.address.replace("127.0.0.1", "localhost")
        folder = fetch(token=hub.token)
        assert (folder / "model.safetensors").stat().st_size > 10**6
        assert {one.token for one in hub.asked} == {"Bearer hf_right"}
        assert storage.files_asked == ["model.safetensors"]
        assert {one.token for one in storage.asked} == {None}


def test_a_gated_model_says_how_to_get_in(hub: StandIn, fetch: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(NAME)
    asks = rf"Ask for access at {hub.address}/{NAME}, and give a token as HF_TOKEN or --hf-token"
    with pytest.raises(HubError, match=f"no token was given. {asks}"):
        fetch()
    with pytest.raises(HubError, match=f"this token has none. {asks}") as told:
        fetch(token="hf_wrong")
    assert "hf_wrong" not in str(told.value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert fetch().name == MAIN


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "does not know the token"),
        (403, {}, "the token may not read it"),
        (404, {"X-Error-Code": "RepoNotFound"}, "there is no such folder, and http.* has no such model"),
        (429, {"Retry-After": "17"}, "no more requests for now .429.. Start again in 17 s"),
        (500, {}, "answered 500"),
    ],
)
def test_what_the_hub_answers_is_told(
    hub: StandIn, fetch: Download, status: int, headers: dict[str, str], told: str
) -> None:
    hub.refusals[f"/api/models/{NAME}"] = (status, headers)
    with pytest.raises(HubError, match=f"model is '{NAME}': .*{told}"):
        fetch()


def test_a_model_that_is_neither_here_nor_there_is_told_both(hub: StandIn, fetch: Download) -> None:
    with pytest.raises(HubError, match=r"there is no such folder, and http.* has no such model, or it is private"):
        fetch("org/absent")


def test_a_hub_that_is_not_there(fetch: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached: .*Check the network"):
        fetch()


def test_errors_that_take_long_are_told_too() -> None:
    http = hub_errors.http_client()

    def tell(error: BaseException) -> str:
        kind = {"option": "model", "name": NAME, "revision": None, "endpoint": "http://hub"}
        return str(hub_errors.translated(error, offline=False, token=False, **kind))

    assert "http://hub did not answer in time" in tell(http.ReadTimeout("x"))
    assert "the connection to http://hub broke: reset" in tell(http.ReadError("reset"))
    assert "the cache cannot be written" in tell(PermissionError(errno.EACCES, "no", "/cache"))


def test_what_is_here_serves_while_the_hub_is_away(
    hub: StandIn, fetch: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch() == folder


@contextmanager
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def test_offline_asks_nobody(hub: StandIn, fetch: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("org/sharded")
    hub.asked.clear()
    with offline(monkeypatch):
        assert fetch("org/sharded") == folder
        with pytest.raises(HubError, match="no such folder, HF_HUB_OFFLINE is set, and the cache has not this"):
            fetch()
        (folder / "model-2.safetensors").unlink()
        with pytest.raises(HubError, match=r"the cache has no model-2\.safetensors of it\. Start once without"):
            fetch("org/sharded")
        (folder / "tokenizer.json").unlink()
        with pytest.raises(HubError, match=r"files of it are missing: .*tokenizer\.json"):
            fetch("org/sharded")
    assert hub.asked == []


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: StandIn, fetch: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.breaks["model-1.safetensors"] = 100_000
    folder = fetch("org/sharded")
    assert (folder / "model-1.safetensors").read_bytes() == b"1" * 300_000
    ranges = [one.range for one in hub.asked if one.method == "GET" and one.path.endswith("model-1.safetensors")]
    assert ranges == [None, "bytes=100000-"]


class Counter:
    """A `Progress` that keeps what it is told, and may raise."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.phases: list[tuple[str, int]] = []
        self.done = 0
        self.error = error

    @contextmanager
    def track(self, phase: str, *, total: int, unit: str) -> Iterator[Callable[[int], object]]:
        self.phases.append((phase, total))
        yield self.advance

    def advance(self, count: int) -> None:
        self.done += count
        if self.error is not None and self.done:
            raise self.error


def test_progress_counts_the_bytes_of_weights(hub: StandIn, fetch: Download) -> None:
    progress = Counter()
    fetch("org/sharded", progress=progress)
    assert (progress.phases, progress.done) == ([("downloading", 600_000)], 600_000)
    again = Counter()
    fetch("org/sharded", progress=again)
    assert again.phases == []


def test_an_interrupted_download_is_gone_on_with(hub: StandIn, fetch: Download, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch("org/sharded", progress=Counter(KeyboardInterrupt()))
    assert not list(tmp_path.rglob("*.incomplete"))
    kept = {path.name for path in tmp_path.rglob("snapshots/*/*.safetensors")}
    hub.asked.clear()
    folder = fetch("org/sharded")
    assert {path.name for path in folder.glob("*.safetensors")} == {"model-1.safetensors", "model-2.safetensors"}
    assert not kept & set(hub.files_asked)


def test_a_disk_that_fills_up_is_told(
    hub: StandIn, fetch: Download, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 400_000, 400_000))
        with pytest.raises(HubError, match=r"0\.00 GB are missing of it, and .*cache has room for 0\.00 GB"):
            fetch("org/sharded")
        assert "model-1.safetensors" not in hub.files_asked

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        with pytest.raises(HubError, match=r"there is no room for it: No space left on device\. Make room"):
            fetch("org/sharded")
    assert not list(tmp_path.rglob("*.incomplete"))
    assert (fetch("org/sharded") / "model-1.safetensors").exists()


def test_a_folder_wins_over_a_name(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    config = EngineConfig(model=NAME, download_dir=str(tmp_path / "cache"), hf_token="hf_x")
    assert localised(config).model == NAME
    assert hub.asked == []
    with pytest.raises(ConfigError, match="revision is 'v2': what it is of is a folder"):
        localised(EngineConfig(model=NAME, revision="v2"))


def test_an_engines_options_become_paths(hub: StandIn, tmp_path: Path) -> None:
    asked = EngineConfig(
        model=NAME, tokenizer="org/sharded", tokenizer_revision=MAIN, revision="v2", hf_token=hub.token,
        download_dir=str(tmp_path),
    )  # fmt: skip
    assert hub.token not in repr(asked)
    found = localised(asked)
    assert Path(found.model).name == V2
    assert {path.name for path in Path(str(found.tokenizer)).iterdir()} == set(TEXTS)
    assert (found.hf_token, found.revision, found.tokenizer_revision) == (None, None, None)
    assert localised(found) == found
    assert shown_name(found.model) == NAME
    drafted = replace(found, speculative_config={"model": NAME, "num_speculative_tokens": 3})
    drafted = localised(replace(drafted, hf_token=hub.token))  # the draft model comes from the hub, too
    assert Path(drafted.speculative_config["model"]).name == MAIN
    assert localised(drafted) == drafted
    same = localised(EngineConfig(model=NAME, tokenizer=NAME, download_dir=str(tmp_path)))
    assert same.tokenizer == same.model


@pytest.mark.parametrize("model", ["gpt2", "./org/name", "a/b/c", "org/na--me", "org/..", "/abs/x", "org/", "~/x"])
def test_what_is_no_name_is_never_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxpaged.weights.source.download", lambda *_, **__: pytest.fail("asked"))
    assert not is_hub_name(model)
    with pytest.raises(ModelError, match="there is no such folder, and a model's name on the hub has the form org/na"):
        localised(EngineConfig(model=model))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.bin").touch()
    with pytest.raises(ModelError, match="it is a file, not a folder"):
        localised(EngineConfig(model=str(tmp_path / "x.bin")))


def test_names_of_paths_in_a_cache() -> None:
    assert snapshot_name(Path("/c/models--org--na.me/snapshots") / MAIN) == "org/na.me"
    assert snapshot_name(Path("/models/org/name")) is None
    assert shown_name("/models/llama/") == "llama"


@pytest.mark.parametrize("name", ["revision", "tokenizer_revision", "hf_token", "download_dir"])
@pytest.mark.parametrize("value", ["", " x", "a\nb"])
def test_words_for_the_hub_are_checked(name: str, value: str) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=f"{name} is .*blanks around it") as told:
        EngineConfig(**options)
    assert name != "hf_token" or "not shown" in str(told.value)
