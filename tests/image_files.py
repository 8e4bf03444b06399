"""The images as files: what the build context holds, and the instructions of a Dockerfile."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
IMAGES = ("cpu", "cuda", "rocm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One instruction of a Dockerfile, in the stage with that number (-1: before the first)."""

    name: str
    value: str
    stage: int

    @property
    def words(self) -> list[str]:
        """The value as shell words, flags such as --from left out."""
        return [word for word in shlex.split(self.value) if not word.startswith("--")]

    @property
    def flags(self) -> dict[str, str]:
        """The flags before the words: --from=build is {"from": "build"}."""
        pairs = (word[2:].partition("=") for word in shlex.split(self.value) if word.startswith("--"))
        return {key: value for key, _, value in pairs}

    @property
    def exec_form(self) -> list[str]:
        """The value as a JSON list. Raises ValueError where it is a shell line."""
        words = json.loads(self.value)
        assert isinstance(words, list)
        return words


def steps(image: str) -> list[Step]:
    """The instructions of an image, comments left out, ARGs with defaults put in where they are used."""
    file = io.BytesIO((DOCKER / f"{image}.Dockerfile").read_bytes())
    parser = DockerfileParser(fileobj=file)  # pyright: ignore[reportArgumentType]
    found: list[Step] = []
    arguments: dict[str, str] = {}
    stage = -1
    for item in parser.structure:
        name, value = item["instruction"], item["value"]
        if name == "COMMENT":
            continue
        value = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match.group(1), match.group()), value)
        if name == "ARG" and "=" in value:
            key, _, default = value.partition("=")
            arguments[key] = default
        stage += name == "FROM"
        found.append(Step(name=name, value=value, stage=stage))
    return found


def context() -> set[str]:
    """Files that `docker build` sends from the repository's root, by .dockerignore: the last pattern that fits wins."""
    lines = [line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines()]
    patterns = [(line.removeprefix("!"), line.startswith("!")) for line in lines if line and not line.startswith("#")]
    sent: set[str] = set()
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name not in (".git", ".venv")]
        for file in files:
            path = Path(folder, file).relative_to(ROOT)
            here = [str(part) for part in (path, *path.parents)][:-1]
            keep = True
            for pattern, kept in patterns:
                if any(_fits(part, pattern) for part in here):
                    keep = kept
            if keep:
                sent.add(str(path))
    return sent


def _fits(path: str, pattern: str) -> bool:
    expression = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return re.fullmatch(expression, path) is not None
