"""A client: a folder beside this file, with its requirements, exactly pinned, and its checks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
LIMITED_RATE = 12
"""Requests a minute of the key with which a client sees its rate used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """name: of its folder too. limit_s: seconds that its checks may take, on a busy machine too."""

    name: str
    limit_s: float

    @property
    def folder(self) -> Path:
        return HERE / self.name

    @property
    def is_javascript(self) -> bool:
        return (self.folder / "package.json").exists()

    @property
    def key(self) -> str:
        """Of the server, with no limits."""
        return f"sk-{self.name}-0123456789"

    @property
    def limited_key(self) -> str:
        """Of the server, with `LIMITED_RATE`."""
        return f"sk-{self.name}-limited-0123456789"

    @property
    def version(self) -> str:
        """Of the client itself."""
        if self.is_javascript:
            (version,) = json.loads((self.folder / "package.json").read_text())["dependencies"].values()
            return version
        return (self.folder / "requirements.in").read_text().strip().partition("==")[2]

    @property
    def fingerprint(self) -> str:
        """Of all that is installed for it."""
        names = ("requirements.txt", "package.json", "package-lock.json")
        files = [path.read_bytes() for name in names if (path := self.folder / name).exists()]
        return sha256(b"\0".join(files)).hexdigest()[:12]


CLIENTS = (
    Client(name="openai-python", limit_s=120),
    Client(name="openai-npm", limit_s=120),
    Client(name="langchain-openai", limit_s=120),
    Client(name="litellm-sdk", limit_s=180),
    Client(name="instructor", limit_s=120),
    Client(name="pydantic-ai", limit_s=120),
    Client(name="lm-eval", limit_s=300),
    Client(name="evalscope-perf", limit_s=180),
)
