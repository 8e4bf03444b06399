"""Check a built wheel: `wheel.py FILE`. It holds the packages, the licences, the bundled model, and no more."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

MAX_MODEL_BYTES = 12 * 10**6
PACKAGES = ("jaxpaged", "pallas_kernels", "jaxpaged_server")
SOURCES = Path(__file__).parents[1] / "pallas_kernels" / "native"
"""Of the native library, which a user's own compiler builds: all of them are in the wheel."""
NEEDED = (
    *(f"{package}/py.typed" for package in PACKAGES),
    "jaxpaged/tiny/config.json",
    "jaxpaged/tiny/model.safetensors",
    "jaxpaged/tiny/tokenizer.json",
    "jaxpaged/tiny/LICENSE-PSF",
    "jaxpaged/tiny/draft/config.json",
    "jaxpaged/tiny/draft/model.safetensors",
    "jaxpaged/verify/passage.txt",
    "jaxpaged_server/cli.py",
    "jaxpaged_server/vllm_flags.toml",
    *(f"jaxpaged_server/static/{name}" for name in ("playground.html", "status.html", "docs.html", "design.css")),
    *(f"pallas_kernels/native/{path.name}" for path in sorted(SOURCES.iterdir()) if path.suffix in (".cc", ".h")),
)


def main(path: str) -> None:
    with zipfile.ZipFile(path) as wheel:
        infos = wheel.infolist()
    names = {info.filename for info in infos}
    problems = [f"{name} is missing" for name in NEEDED if name not in names]
    tops = {name.split("/")[0] for name in names}
    strangers = sorted(top for top in tops - set(PACKAGES) if not top.endswith(".dist-info"))
    problems += [f"{top} does not belong there" for top in strangers]
    if not any(name.endswith("licenses/LICENSE") for name in names):
        problems.append("the licence is missing")
    model_bytes = sum(info.compress_size for info in infos if info.filename.startswith("jaxpaged/tiny/"))
    if model_bytes > MAX_MODEL_BYTES:
        problems.append(f"the bundled model takes {model_bytes:,} bytes: at most {MAX_MODEL_BYTES:,}")
    if problems:
        raise SystemExit("\n".join(f"{path}: {problem}" for problem in problems))
    print(f"{path}: {len(names)} files, bundled model {model_bytes:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
