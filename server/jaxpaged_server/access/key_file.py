"""Reading the file of `--api-key-file`: strict, since a line that is misread opens or closes a door. [no jax]

keys:
  - name: search          # shown in metrics
    key: sk-...           # or its SHA-256 in hex: printf %s "$KEY" | sha256sum
    max_concurrency: 16   # the rest is optional
    requests_per_minute: 600
    tokens_per_minute: 1000000
    weight: 2             # share against other keys that wait too
    cache_salt: team-a    # keys with the same one share cached prefixes; else a key has its own
    admin: true           # sees the figures of all keys in /metrics and /status.json; else its own and totals
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import yaml

from jaxpaged.errors import ConfigError
from jaxpaged.unique_keys import unique_keys

MAX_BYTES = 256 * 1024
_NAME = "--api-key-file"


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as the file tells it. Lives only while the file is read, and does not show its secret."""

    name: str
    key: str | None = None
    sha256: str | None = None
    max_concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    weight: float = 1.0
    cache_salt: str | None = None
    admin: bool = False

    def __repr__(self) -> str:
        return f"KeyEntry(name={self.name!r})"


class _KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: list[KeyEntry]


def read_key_file(path: Path) -> list[KeyEntry]:
    """The entries of a JSON file (by its name) or a YAML one; at least one.

    Raises ConfigError for a file that is absent, too long, open to other users, or not of the form above.
    """
    text = _read(path)
    try:
        content = _parse_json(text) if path.suffix == ".json" else _parse_yaml(text)
        entries = msgspec.convert(content, _KeyFile).keys
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(name=_NAME, value=str(path), limit=_reason(error)) from None
    if not entries:
        # not the same as no file: it would open the server to everybody
        raise ConfigError(name=_NAME, value=str(path), limit="it has no key", fix="Leave the flag out to ask for none")
    return entries


def _read(path: Path) -> str:
    try:
        # a pipe must not hold up the start; a link may lead here, as where Kubernetes mounts a secret
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise ConfigError(name=_NAME, value=str(path), limit=f"{error.strerror}") from None
    with file:
        status = os.fstat(file.fileno())  # of what was opened: a path could lead elsewhere by now
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(name=_NAME, value=str(path), limit="it is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            limit = f"its mode is {mode:04o}: other users may read or change it"
            raise ConfigError(name=_NAME, value=str(path), limit=limit, fix=f"chmod 600 {path} (or 640)")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(name=_NAME, value=str(path), limit=f"it has more than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(name=_NAME, value=str(path), limit="it is not UTF-8") from None


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=unique_keys)


def _parse_yaml(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ValueError("it is empty")
        _check_nodes(node, seen=set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_nodes(node: yaml.Node, *, seen: set[int]) -> None:
    if id(node) in seen:
        raise ValueError(f"line {node.start_mark.line + 1}: anchors are not read here")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_nodes(value, seen=seen)
    elif isinstance(node, yaml.MappingNode):
        names = set[str]()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode) or name.value in names:
                raise ValueError(f"line {name.start_mark.line + 1}: a field comes twice in one entry, or is no word")
            names.add(name.value)
            _check_nodes(value, seen=seen)


def _reason(error: Exception) -> str:
    """What is wrong, without the text around it: a parser would quote the keys."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"no YAML from line {error.problem_mark.line + 1} on"
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON from line {error.lineno} on: {error.msg}"
    if isinstance(error, msgspec.ValidationError):
        return f"{error}; text that looks like a number needs quotes" if "got `int`" in str(error) else str(error)
    return "no YAML" if isinstance(error, yaml.YAMLError) else str(error)
