"""A file of prompts, one JSON value a line: what `jaxpaged generate --input` reads. [no jax]

A line is a JSON string, or an object with one of "prompt" (text), "messages" (a conversation) or "prompt_token_ids",
and beside it "id" and "sampling" (fields of `SamplingParams`). Blank lines are passed over. A line that cannot be
is not an end: it comes out with its error, and the others go on. Indices count lines from 0.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jaxpaged.commands.terminal import checked_text
from jaxpaged.errors import ConfigError, ParameterError, PromptError, RequestError
from jaxpaged.repetition import RepetitionDetectionParams
from jaxpaged.request import SamplingParams

_KINDS = ("prompt", "messages", "prompt_token_ids")
_KEYS = frozenset({*_KINDS, "id", "sampling"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLine:
    """One line of the file. Exactly one of `text`, `messages`, `token_ids` and `error` is there."""

    index: int
    digest: str  # of the line's bytes
    id: str | int | None = None
    text: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    token_ids: Sequence[int] | None = None
    params: SamplingParams | None = None
    error: RequestError | None = None


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Index and bytes of every line that is not blank. Raises ConfigError where the file cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is not a regular file, and it is read more than once")
        with path.open("rb") as file:
            for index, line in enumerate(file):
                if content := line.removeprefix(b"\xef\xbb\xbf").strip():
                    yield index, content
    except OSError as error:
        raise ConfigError(
            name="--input", value=str(path), limit=error.strerror or str(error), fix="Give a file of JSON lines"
        ) from error


def digest_of(content: bytes) -> str:
    """What tells whether a line is still the line it was."""
    return hashlib.sha256(content).hexdigest()[:24]


def parse_line(index: int, content: bytes, defaults: SamplingParams, *, seed: int) -> PromptLine:
    """Read one line. A request without a seed gets one from `seed` and its index, whenever it comes to run."""
    digest = digest_of(content)
    value: Any = None
    try:
        value = _json(content)
        body: dict[str, Any] = {"prompt": value} if isinstance(value, str) else value
        kind = _kind(body)
        params = _params(body.get("sampling"), defaults)
        if params.seed is None:
            params = replace(params, seed=_seed_of(seed, index))
        return PromptLine(
            index=index,
            digest=digest,
            id=_id(body.get("id")),
            text=_text(body["prompt"]) if kind == "prompt" else None,
            messages=_messages(body["messages"]) if kind == "messages" else None,
            token_ids=_token_ids(body["prompt_token_ids"]) if kind == "prompt_token_ids" else None,
            params=params,
        )
    except RequestError as error:
        given = value.get("id") if isinstance(value, Mapping) else None
        return PromptLine(index=index, digest=digest, id=given if isinstance(given, str | int) else None, error=error)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PromptError(
            name="line", value=content[:60].decode("utf-8", "replace"), limit=f"it is not JSON: {error}"
        ) from None


def _kind(body: object) -> str:
    if not isinstance(body, Mapping):
        raise PromptError(name="line", value=body, limit="it must be a JSON string or object")
    if strangers := sorted(set(body) - _KEYS):
        raise PromptError(
            name=f'key "{strangers[0]}"',
            value=body[strangers[0]],
            limit=f"a line may hold {', '.join(sorted(_KEYS))}",
            fix='Sampling fields go into "sampling"',
        )
    kinds = [kind for kind in _KINDS if kind in body]
    if len(kinds) != 1:
        raise PromptError(name="line", value=sorted(body), limit=f"it must have exactly one of {', '.join(_KINDS)}")
    return kinds[0]


def _id(value: object) -> str | int | None:
    if isinstance(value, str):
        return checked_text(value, "id")
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise PromptError(name="id", value=value, limit="it must be a string or a whole number")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PromptError(name="prompt", value=value, limit="it must be a string")
    return checked_text(value)


def _messages(value: object) -> Sequence[Mapping[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(message, Mapping) for message in value):
        checked_text(json.dumps(value, ensure_ascii=False), "messages")
        return value
    raise PromptError(name="messages", value=value, limit='it must be a list of {"role": ..., "content": ...}')


def _token_ids(value: object) -> Sequence[int]:
    if isinstance(value, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in value):
        return value
    raise PromptError(name="prompt_token_ids", value=value, limit="it must be a list of whole numbers")


def _params(given: object, defaults: SamplingParams) -> SamplingParams:
    if given is None:
        return defaults
    if not isinstance(given, Mapping):
        raise ParameterError(name="sampling", value=given, limit="it must be an object of sampling fields")
    known = {field.name for field in fields(SamplingParams)}
    if strangers := sorted(set(given) - known):
        raise ParameterError(
            name=f"sampling.{strangers[0]}",
            value=given[strangers[0]],
            limit=f"the fields are {', '.join(sorted(known))}",
        )
    values = dict(given)
    bias, detection = values.get("logit_bias"), values.get("repetition_detection")
    try:
        if isinstance(bias, Mapping):  # JSON has no keys but strings
            values["logit_bias"] = {int(token): amount for token, amount in bias.items()}
        if isinstance(detection, Mapping):
            values["repetition_detection"] = RepetitionDetectionParams(**detection)
        return replace(defaults, **values)
    except ParameterError:
        raise
    except (TypeError, ValueError) as error:
        raise ParameterError(name="sampling", value=dict(given), limit=str(error)) from None


def _seed_of(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:4], "big")
