"""Brings a model from a Hugging Face hub into its cache on disk. [no jax, but before weights are fetched]

Owns which files are needed and in which order they come; how one is fetched, resumed, checked and kept is
huggingface_hub's. A revision is resolved to a commit once, and every file is of that commit. After an interruption the
next start goes on: files that are whole stay.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from tqdm import tqdm

from jaxpaged.errors import HubError, JaxPagedError
from jaxpaged.progress import Progress, progress_of
from jaxpaged.weights.folder import INDEX, SINGLE, read_json
from jaxpaged.weights.hub_errors import GO_ONLINE, http_client, no_room, not_cached, translated

TEXT = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
)
"""Patterns of what is read beside weights. No code and no pickle is ever fetched."""
OLDER_TEXT = (
    *("tekken.json", "tokenizer.model", "spiece.model", "qwen.tiktoken"),
    *("vocab.json", "merges.txt", "added_tokens.json"),
)
"""Tokenizers of models that have no tokenizer.json, in the order in which they are read."""
FAST = "tokenizer.json"
_AT_ONCE = 4
"""Files that are fetched side by side."""
_LOOK_S = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model is had from. endpoint: of the hub, None for huggingface_hub's own choice."""

    name: str
    option: str
    revision: str | None
    token: str | None = field(repr=False)
    cache: str | None
    endpoint: str | None
    offline: bool

    @property
    def asked(self) -> dict[str, Any]:
        """What every call of huggingface_hub is told."""
        return {"cache_dir": self.cache, "token": self.token, "endpoint": self.endpoint}


def download(
    name: str,
    *,
    option: str = "model",
    revision: str | None = None,
    token: str | None = None,
    cache: str | None = None,
    weights: bool = True,
    progress: Progress | bool = False,
) -> Path:
    """The folder in the cache that holds a model of a hub, fetched as far as it is not there.

    option: what the user named it by, for errors. revision: a branch, tag or commit (default: main). token: default:
    HF_TOKEN, or what `hf auth login` stored. cache: default: HF_HUB_CACHE, HF_HOME. weights: safetensors, too, and not
    only the tokenizer. With HF_HUB_OFFLINE=1 nothing is asked for. Raises HubError, and before weights are fetched
    ModelError or UnsupportedModelError for a config.json that no engine here serves.
    """
    from huggingface_hub import HfApi, constants  # half a second: only for those who name a model of a hub

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    place = Place(
        name=name, option=option, revision=revision, token=token, cache=cache, endpoint=endpoint,
        offline=constants.is_offline_mode(),
    )  # fmt: skip
    api = HfApi(endpoint=endpoint, token=token, library_name="jaxpaged")
    with _told(place, api.endpoint):
        commit = api.resolve_revision(name, revision=revision, cache_dir=cache, local_files_only=place.offline).resolved
        folder = _fetch_text(place, commit, [*TEXT, INDEX] if weights else TEXT)
        sizes = _sizes(place, commit, folder)
        if FAST not in sizes:
            _fetch_text(place, commit, OLDER_TEXT)
        if weights:
            _fetch_weights(place, commit, folder, sizes, progress=progress)
    return folder


def snapshot_name(path: Path) -> str | None:
    """owner/model where the path is a commit's folder in a hub's cache: models--OWNER--MODEL/snapshots/COMMIT."""
    if path.parent.name != "snapshots" or not path.parent.parent.name.startswith("models--"):
        return None
    return "/".join(path.parent.parent.name.removeprefix("models--").split("--"))


def _fetch_text(place: Place, commit: str, patterns: Sequence[str]) -> Path:
    """Small files: config, tokenizer, index of the weights. Also has the list of all files kept in the cache."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        place.name,
        revision=commit,
        allow_patterns=list(patterns),
        local_files_only=place.offline,
        tqdm_class=cast(Any, _Hidden),  # it asks for tqdm's asyncio form, and uses none of it
        **place.asked,
    )
    return Path(folder)


def _sizes(place: Place, commit: str, folder: Path) -> Mapping[str, int]:
    """Bytes of every file of the commit; of those that are here where the list is not (an older cache, offline)."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        files = get_cached_repo_tree(place.name, revision=commit, cache_dir=place.cache)
    except CachedRepoTreeNotFoundError:
        return {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
    return {file.path: file.size for file in files}


def _fetch_weights(
    place: Place, commit: str, folder: Path, sizes: Mapping[str, int], *, progress: Progress | bool
) -> None:
    """The safetensors that hold the model, and no others: a repository may have the same weights in several forms."""
    needed = _weight_files(place, folder, sizes)
    missing = [file for file in needed if not (folder / file).exists()]
    if not missing:
        return
    if place.offline:
        raise HubError(name=place.option, value=place.name, limit=not_cached(missing), fix=GO_ONLINE)
    _check_config(folder)
    total = sum(sizes[file] for file in missing)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise no_room(place.option, place.name, folder.parents[2], needed=total, free=free)
    _log.info("downloading %s, commit %s: %d files, %.2f GB", place.name, commit[:12], len(missing), total / 1e9)
    from huggingface_hub import hf_hub_download

    def fetch(file: str, meter: type[tqdm]) -> None:
        hf_hub_download(place.name, file, revision=commit, tqdm_class=meter, **place.asked)

    with progress_of(progress).track("downloading", total=total, unit="B") as advance:
        _side_by_side(fetch, missing, advance)


def _check_config(folder: Path) -> None:
    """Refuse a model that cannot be served before gigabytes of it come. Raises ModelError, UnsupportedModelError."""
    from jaxpaged.models.families import read_config  # starts jax: only where a download takes longer

    read_config(read_json(folder / "config.json", fix="Name a model in Hugging Face layout"))


def _weight_files(place: Place, folder: Path, sizes: Mapping[str, int]) -> list[str]:
    """Names of the files that hold the weights. Raises HubError where there are none, or they are not what they say."""
    if SINGLE in sizes:
        return [SINGLE]
    if INDEX not in sizes and place.offline:
        raise HubError(name=place.option, value=place.name, limit=not_cached([SINGLE]), fix=GO_ONLINE)
    if INDEX not in sizes:
        raise HubError(name=place.option, value=place.name, **_instead(sizes))
    files = read_json(folder / INDEX, fix="Ask its owners to correct it").get("weight_map")
    shards = sorted({str(file) for file in files.values()}) if isinstance(files, dict) else []
    known = {*sizes, *(shards if place.offline else ())}  # what is not known offline is missing, and told as such
    strange = [file for file in shards if file not in known or PurePosixPath(file).suffix != ".safetensors"]
    if strange or not shards:
        limit = f"its {INDEX} names {', '.join(strange[:3])}" if strange else f"its {INDEX} names no file"
        raise HubError(name=place.option, value=place.name, limit=limit, fix="Ask its owners to correct it")
    return shards


def _instead(files: Iterable[str]) -> dict[str, str]:
    """What a model without safetensors has, and what can be done with it."""
    kinds = {PurePosixPath(file).suffix for file in files}
    if ".gguf" in kinds:
        return {"limit": "it has GGUF files and no safetensors", "fix": "Download one and give the file"}
    if kinds & {".bin", ".pt", ".pth", ".ckpt"}:
        limit = "it has its weights as pickles alone, and loading one can run any code"
        return {"limit": limit, "fix": "Convert them with transformers: save_pretrained writes safetensors"}
    return {"limit": f"it has neither {SINGLE} nor {INDEX}", "fix": "Name the model in its safetensors form"}


def _side_by_side(
    fetch: Callable[[str, type[tqdm]], None], files: Iterable[str], advance: Callable[[int], object]
) -> None:
    """Fetch files in threads and tell how many bytes came. An interruption, or an error of one, stops them all."""
    state = _State()
    meter = _meter(state)
    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="download") as pool:
        waiting = {pool.submit(fetch, file, meter) for file in files}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_LOOK_S, return_when=FIRST_EXCEPTION)
                advance(state.take())
                for future in done:
                    future.result()
        except BaseException:
            state.stopped.set()
            for future in waiting:
                future.cancel()
            raise


class _State:
    """What downloading threads and the one that waits for them share."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._count = 0

    def add(self, count: int) -> None:
        if self.stopped.is_set():
            raise InterruptedError(errno.EINTR, "another download ended all")
        with self._lock:
            self._count += count

    def take(self) -> int:
        with self._lock:
            count, self._count = self._count, 0
        return count


class _Hidden(tqdm):
    """A bar that nobody sees."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)
        super().__init__(*args, **{**kwargs, "disable": True})


def _meter(state: _State) -> type[tqdm]:
    """A class of bars that add what they are told to `state`; huggingface_hub makes one a file."""

    class Meter(_Hidden):
        def update(self, n: float | None = 1) -> bool | None:
            state.add(int(n or 0))
            return None

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes from the network before they are on the disk: not counted twice."""

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
            """Nobody sees it."""

    return Meter


@contextmanager
def _told(place: Place, endpoint: str) -> Iterator[None]:
    """Every error on the way as one of ours, with what to do."""
    from huggingface_hub.errors import RevisionResolutionError

    try:
        yield
    except JaxPagedError:
        raise
    except (OSError, ValueError, http_client().HTTPError, RevisionResolutionError) as error:
        raise translated(
            error,
            option=place.option,
            name=place.name,
            revision=place.revision,
            endpoint=endpoint,
            offline=place.offline,
            token=place.token is not None,
        ) from error
