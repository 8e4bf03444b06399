"""What can go wrong on the way from a hub, each with what to do about it. [no jax]

huggingface_hub's exceptions come in; what goes out never holds a token.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from jaxpaged.errors import HubError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NETWORK = "Check the network, proxies and HF_ENDPOINT, or give the model's folder; whole files are kept"
GO_ONLINE = "Start once without HF_HUB_OFFLINE, or copy the cache of a machine that has it"


def http_client() -> Any:
    """The module of the HTTP client that huggingface_hub uses, whichever of httpx and its successors that is."""
    from huggingface_hub import utils

    return cast(Any, utils).httpx  # the name that it keeps for others across versions


def translated(
    error: BaseException, *, option: str, name: str, revision: str | None, endpoint: str, offline: bool, token: bool
) -> HubError:
    """The error to raise. option: what the user named the model by. token: whether one was given for this model."""
    chain = list(_chain(error))
    limit, fix = (
        next((told for one in chain if (told := _status(one, endpoint=endpoint, name=name, token=token))), None)
        or next((told for one in chain if (told := _transport(one, endpoint=endpoint))), None)
        or next((told for one in chain if (told := _cache(one, offline=offline, endpoint=endpoint))), None)
        or (f"{endpoint} could not be read from: {_line(error)}", _NETWORK)
    )
    if limit.startswith("it has no such revision"):
        return HubError(name="revision", value=revision or "main", limit=f"of {name}: {limit}", fix=fix)
    return HubError(name=option, value=name, limit=limit, fix=fix)


def no_room(option: str, name: str, cache: Path, *, needed: int, free: int) -> HubError:
    """The error where a download does not fit. needed, free: bytes."""
    limit = f"{needed / 1e9:.2f} GB are missing of it, and {cache} has room for {free / 1e9:.2f} GB"
    return HubError(name=option, value=name, limit=limit, fix="Make room, or name another place by --download-dir")


def not_cached(files: Sequence[str]) -> str:
    """What is wrong where nothing may be asked for."""
    shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
    return f"HF_HUB_OFFLINE is set, and the cache has no {shown} of it"


def _chain(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def _status(error: BaseException, *, endpoint: str, name: str, token: bool) -> tuple[str, str] | None:
    """What the hub answered."""
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision", f"{endpoint}/{name} lists branches, tags and commits"
    if isinstance(error, errors.GatedRepoError):
        limit = "its owners grant access one by one, and " + ("this token has none" if token else "no token was given")
        return limit, f"Ask for access at {endpoint}/{name}, and give a token as HF_TOKEN or --hf-token"
    if not isinstance(error, errors.HfHubHTTPError):
        return None
    status = error.response.status_code
    if status == 401 and not isinstance(error, errors.RepositoryNotFoundError):
        return f"{endpoint} does not know the token", "Correct it: HF_TOKEN, --hf-token, or `hf auth login`"
    if status in (401, 404):
        limit = f"there is no such folder, and {endpoint} has no such model, or it is private"
        return limit, "Correct the name, or give a token that may read it as HF_TOKEN or --hf-token"
    if status == 403:
        return "the token may not read it", f"Give one that may, see {endpoint}/settings/tokens"
    if status == 429:
        after = error.response.headers.get("Retry-After")
        when = f"in {after} s" if after and after.isdigit() else "later"
        return f"{endpoint} takes no more requests for now (429)", f"Start again {when}; with a token it takes more"
    return f"{endpoint} answered {status}", "Start again later; whole files are kept"


def _transport(error: BaseException, *, endpoint: str) -> tuple[str, str] | None:
    """Why there was no answer, or not all of it."""
    http = http_client()
    if isinstance(error, http.TimeoutException):
        return f"{endpoint} did not answer in time", f"{_NETWORK}; HF_HUB_DOWNLOAD_TIMEOUT is its patience in seconds"
    if isinstance(error, http.ConnectError):
        return f"{endpoint} cannot be reached: {_line(error)}", _NETWORK
    if isinstance(error, http.TransportError):
        return f"the connection to {endpoint} broke: {_line(error)}", "Start again: whole files are kept"
    return None


def _cache(error: BaseException, *, offline: bool, endpoint: str) -> tuple[str, str] | None:
    """What is wrong with files of this machine."""
    from huggingface_hub import errors

    absent = (errors.RevisionResolutionError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    if isinstance(error, absent) and offline:
        if isinstance(error, errors.IncompleteSnapshotError):
            return f"HF_HUB_OFFLINE is set, and files of it are missing: {_line(error)}", GO_ONLINE
        if isinstance(error, errors.RevisionResolutionError):
            limit = "there is no such folder, HF_HUB_OFFLINE is set, and the cache has not this revision of it"
            return limit, GO_ONLINE
        return not_cached(["file"]), GO_ONLINE
    if isinstance(error, absent):
        return f"{endpoint} could not be asked: {_line(error)}", _NETWORK
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        limit = f"there is no room for it: {error.strerror}"
        return limit, "Make room, or name another place by --download-dir; whole files are kept"
    if isinstance(error, PermissionError):
        return f"the cache cannot be written: {_line(error)}", "Name another place by --download-dir"
    if isinstance(error, OSError) and str(error).startswith("Consistency check failed"):
        return "a file came with another size than was announced", "Start again: whole files are kept"
    return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
