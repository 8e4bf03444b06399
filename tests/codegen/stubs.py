"""Stand-ins for the ROCm libraries, so that XLA's ROCm plugin loads on a machine without ROCm. For compiling only.

The plugin has its compiler inside (LLVM, LLD, Triton, device bitcode) but is linked against libraries that talk to a
GPU. Each stand-in exports what the plugin wants of it and answers every call with an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

_OF_EVERY_LINUX = re.compile(r"^(ld-linux.*|lib(c|m|rt|dl|pthread|stdc\+\+|gcc_s)\.so.*)$")
# what is asked before a program is compiled, or answers with a text: the rest returns 100, hipErrorNoDevice
_ANSWERS = {
    "hipGetDeviceCount": "int hipGetDeviceCount(int *count) { *count = 0; return 0; }",
    "hipGetErrorName": 'const char *hipGetErrorName(int error) { return "stub"; }',
    "hipGetErrorString": 'const char *hipGetErrorString(int error) { return "stub"; }',
    "ncclGetErrorString": 'const char *ncclGetErrorString(int error) { return "stub"; }',
    "rocprofiler_get_status_string": 'const char *rocprofiler_get_status_string(int status) { return "stub"; }',
    "rocprofiler_force_configure": "int rocprofiler_force_configure(void *configure) { return 0; }",
}


def build(plugin: Path, folder: Path) -> None:
    """Make `folder` hold a stand-in for every library that `plugin` needs and Linux does not have.

    Needs gcc and readelf. The folder appears whole or not at all.
    """
    libraries = needed(_readelf("--dynamic", plugin))
    symbols = wanted(_readelf("--dyn-syms", plugin), _readelf("--version-info", plugin), libraries)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
    try:
        for library in libraries:
            _compile(library, symbols.get(library, {}), made)
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def needed(dynamic: str) -> list[str]:
    """The libraries of `readelf --dynamic` that are not part of every Linux system."""
    found = re.findall(r"\(NEEDED\)\s+Shared library: \[(.+)\]", dynamic)
    return [name for name in found if not _OF_EVERY_LINUX.match(name)]


def wanted(symbols: str, versions: str, libraries: Iterable[str]) -> dict[str, dict[str, str]]:
    """Library -> function -> version ("" for none), of `readelf --dyn-syms` and `--version-info`.

    Functions without a version may come from any library: the first one gets them.
    """
    library_of: dict[str, str] = {}
    current = ""
    for line in versions.splitlines():
        if file := re.search(r"File: (\S+)", line):
            current = file[1]
        elif name := re.search(r"Name: (\S+)", line):
            library_of[name[1]] = current
    first, *_ = libraries
    found: dict[str, dict[str, str]] = {}
    for name, version in re.findall(r"FUNC\s+GLOBAL\s+DEFAULT\s+UND\s+([^\s@]+)(?:@(\S+))?", symbols):
        library = library_of[version] if version else first
        if not _OF_EVERY_LINUX.match(library):
            found.setdefault(library, {})[name] = version
    return found


def _readelf(what: str, plugin: Path) -> str:
    return subprocess.run(["readelf", "--wide", what, plugin], capture_output=True, text=True, check=True).stdout


def _compile(library: str, functions: Mapping[str, str], folder: Path) -> None:
    source, script = folder / f"{library}.c", folder / f"{library}.map"
    source.write_text("\n".join(_ANSWERS.get(name, f"int {name}(void) {{ return 100; }}") for name in functions) + "\n")
    versions: dict[str, list[str]] = {}
    for name, version in functions.items():
        if version:
            versions.setdefault(version, []).append(name)
    script.write_text(
        "\n".join(f"{version} {{ {' '.join(f'{n};' for n in names)} }};" for version, names in versions.items())
    )
    command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", "-o", str(folder / library), str(source)]
    if versions:
        command.append(f"-Wl,--version-script,{script}")
    subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C"})
