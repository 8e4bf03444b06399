"""One run of one engine: a process of its own, its row or why there is none. [no jax]"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpaged.bench import peers
from jaxpaged.bench.comparison import Case, Comparison, Engine
from jaxpaged.bench.kinds import KINDS
from jaxpaged.bench.presence import python_of

_DTYPES = {"f32": "float32", "bf16": "bfloat16"}
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "f32": "f32", "bf16": "bf16", "f16": "f16"}
_INT8 = "int8"  # of weights: what it is computed in beside them is the engine's own affair
_LAST_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process is started with. row: the file it writes, None where its last line of output is the row."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    row: Path | None


def run_once(comparison: Comparison, engine: Engine, case: Case, *, log: Path) -> dict[str, Any]:
    """Serve the case once and return the row; where that fails, a row with `error` alone.

    All that the process prints goes to `log`. It and its children are killed when the time is over, and when this
    process is interrupted, which is then raised on.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="jaxpaged-compare-") as folder:
        job = make_job(comparison, engine, case, folder=Path(folder), log=log)
        try:
            status = _run(job, log=log, folder=folder, timeout_s=comparison.timeout_s, threads=comparison.threads)
        except subprocess.TimeoutExpired:
            return {"error": f"not done in {comparison.timeout_s:g} s"}
        except OSError as error:
            return {"error": f"it does not start: {error}"}
        text = log.read_text(encoding="utf-8", errors="replace")
        if status:
            return {"error": f"{_ended(status)}: {_last_words(text)}"}
        try:
            row = json.loads(_printed_row(text) if job.row is None else job.row.read_text(encoding="utf-8"))
        except (OSError, ValueError, IndexError) as error:
            return {"error": f"it wrote no row ({error}): {_last_words(text)}"}
    return _checked(row, engine)


def make_job(comparison: Comparison, engine: Engine, case: Case, *, folder: Path, log: Path) -> Job:
    """The command of a run, and the file with its job where the engine has a runner."""
    options = {**comparison.options, **engine.options}
    model = comparison.models[case.model].get(engine.format, Path())
    environment = {
        "OMP_NUM_THREADS": str(comparison.threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **engine.environment,
    }
    if engine.kind == "jaxpaged":
        words = ["-m", "jaxpaged_server.cli", "bench", "throughput", "--quiet"]
        words += ["--model", str(model), "--input", str(case.trace)]
        words += ["--dtype", _DTYPES[engine.precision]] if engine.precision in _DTYPES else []
        words += ["--quantization", _INT8] if engine.precision == _INT8 else []
        given = {"limit": case.limit, "max_concurrency": case.max_concurrency, **options}
        for name, value in given.items():
            words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
        return Job(command=(python_of(engine), *words, *engine.flags), environment=environment, row=None)
    if engine.kind == "llamacpp-server":
        options = {**_llamacpp(engine, options), **engine.options}
    elif engine.kind == "openai-endpoint":
        options = {**options, "command": list(engine.command), "url": engine.url}
    job = {
        "model": str(model),
        "trace": str(case.trace),
        "limit": case.limit,
        "max_concurrency": case.max_concurrency,
        "threads": comparison.threads,
        "precision": engine.precision,
        "options": options,
        "log": str(log.with_suffix(".server.log")),
        "row": str(folder / "row.json"),
    }
    place = folder / "job.json"
    place.write_text(json.dumps(job), encoding="utf-8")
    runner = engine.script or str(Path(next(iter(peers.__path__))) / KINDS[engine.kind].runner)
    return Job(command=(python_of(engine), runner, str(place)), environment=environment, row=folder / "row.json")


def precision_of(row: Mapping[str, Any]) -> str | None:
    """What the engine said that it computed in, in this package's word; None where it did not say."""
    settings = row.get("settings") or {}
    said = row.get("precision_found") or settings.get("quantization") or settings.get("dtype")
    return _PRECISIONS.get(str(said).lower(), str(said)) if said else None


def _llamacpp(engine: Engine, options: Mapping[str, Any]) -> dict[str, Any]:
    slots, context = options.get("max_num_seqs", 32), options.get("max_model_len", 2048)
    kv = str(options.get("kv_cache_type", "f16"))
    command = [engine.server, "-m", "{model}", "--host", "127.0.0.1", "--port", "{port}"]
    command += ["-t", "{threads}", "-tb", "{threads}", "-np", str(slots), "-c", str(slots * context)]
    command += ["-ctk", kv, "-ctv", kv, "--no-webui", "--cache-ram", "0", *engine.flags]
    return {"api": "llamacpp", "command": command, "version_command": [engine.server, "--version"], "port": 8790}


def _run(job: Job, *, log: Path, folder: str, timeout_s: float, threads: int) -> int:
    with log.open("wb") as output, _pinned(threads):
        process = subprocess.Popen(
            job.command,
            cwd=folder,
            env={**os.environ, **job.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt of the terminal is this process's to pass on
        )
    try:
        return process.wait(timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, too: a crash may have left a server
        process.wait()


@contextlib.contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """Processes started inside may use so many cores, the same ones for every engine."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _checked(row: Any, engine: Engine) -> dict[str, Any]:
    """The row with an `error` where its figures are not of the work that was asked for."""
    if not isinstance(row, dict) or not isinstance(row.get("out_tok_s"), int | float):
        return {"error": f"its row has no out_tok_s: {str(row)[:200]}"}
    if row.get("errors"):
        why = row.get("first_error") or "see the log"
        return {**row, "error": f"{row['errors']} of {row.get('requests')} requests failed: {why}"}
    if row.get("short"):
        return {**row, "error": f"{row['short']} of {row.get('requests')} requests got another number of tokens"}
    found = precision_of(row)
    if (
        found in (*_PRECISIONS.values(), _INT8)
        and engine.precision in _PRECISIONS.values()
        and found != engine.precision
    ):
        return {**row, "error": f"it computed in {found}, its entry says {engine.precision}"}
    return row


def _printed_row(text: str) -> str:
    """The last line that looks like a JSON object; a warning may stand after it."""
    return [line for line in text.splitlines() if line.startswith("{")][-1]


def _ended(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-status).name}"
    return f"it ended with status {status}"


def _last_words(text: str) -> str:
    """The last lines that say something, without the colours of a terminal."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:])[-600:] if lines else "it said nothing"
