"""What every runner shares: the job, the trace, the clock of each request, the row. Standard library alone.

A runner is called with the path of a job, a JSON object: `trace` (path), `limit` and `max_concurrency` (or null),
`threads`, `model` (folder or file), `precision`, `options` (an object that the runner understands), `log` (a path for
what a server says) and `row` (path of the JSON object that the runner writes when it is done).
"""

import contextlib
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

WARM_TOKENS = 4


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, how many tokens to answer, and when it arrives (seconds from the start)."""

    index: int
    prompt_ids: list
    max_tokens: int
    arrival_s: float = 0.0


@dataclass
class Record:
    """One request as a client sees it. Seconds on one clock; `due_s` is when its waiting began."""

    due_s: float
    num_prompt: int
    num_wanted: int
    num_output: int = 0
    times_s: list = field(default_factory=list)
    error: str = ""

    def add(self, num_tokens, now_s):
        """Note that so many tokens could be read now."""
        if num_tokens > 0:
            self.num_output += num_tokens
            self.times_s.append(now_s)


def read_job(argv=None):
    """The job named on the command line."""
    path = (sys.argv if argv is None else argv)[1]
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_requests(job):
    """The requests of the job's trace in order of arrival."""
    lines = Path(job["trace"]).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()][: job.get("limit")]
    rows.sort(key=lambda row: row.get("arrival_s") or 0.0)
    return [
        Request(index, row["prompt_ids"], row["max_tokens"], row.get("arrival_s") or 0.0)
        for index, row in enumerate(rows)
    ]


def warm_requests(requests, max_concurrency):
    """A few short requests that are served before the clock starts."""
    first = requests[0]
    count = min(WARM_TOKENS, max_concurrency or WARM_TOKENS)
    return [Request(-1 - i, first.prompt_ids, min(WARM_TOKENS, first.max_tokens)) for i in range(count)]


def drive(engine, requests, max_concurrency=None, clock=time.perf_counter, sleep=time.sleep):
    """Serve the requests with an engine that is stepped; returns (records, seconds).

    engine.add(request) takes a request; engine.step() gives (index, new tokens, finished) of the requests that moved.
    With `max_concurrency` a request is let in when there is a place, and its waiting begins then.
    """
    records, live = {}, set()
    coming = list(reversed(requests))
    began_s = clock()
    while coming or live:
        now_s = clock()
        while coming and coming[-1].arrival_s <= now_s - began_s and len(live) < (max_concurrency or len(requests)):
            request = coming.pop()
            due_s = clock() if max_concurrency else began_s + request.arrival_s
            records[request.index] = Record(due_s, len(request.prompt_ids), request.max_tokens)
            live.add(request.index)
            engine.add(request)
        if not live:
            sleep(max(0.0, coming[-1].arrival_s - (clock() - began_s)))
            continue
        moved = list(engine.step())
        now_s = clock()
        for index, num_tokens, finished in moved:
            records[index].add(num_tokens, now_s)
            if finished:
                live.discard(index)
    return list(records.values()), clock() - began_s


def percentile_ms(seconds, percent):
    """A percentile in milliseconds, between neighbours in proportion; None of nothing."""
    if not seconds:
        return None
    values = sorted(seconds)
    place = (len(values) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return round((values[low] + (values[high] - values[low]) * (place - low)) * 1000, 3)


def figures(records, total_s):
    """The figures of a pass: the same names and meanings as in a row of `jaxpaged bench throughput`."""
    served = [record for record in records if record.times_s]
    spans = {
        "ttft": [record.times_s[0] - record.due_s for record in served],
        "tpot": [
            (record.times_s[-1] - record.times_s[0]) / (record.num_output - 1)
            for record in served
            if record.num_output > 1
        ],
        "itl": [
            late - early for record in served for early, late in zip(record.times_s, record.times_s[1:], strict=False)
        ],
        "e2e": [record.times_s[-1] - record.due_s for record in served],
    }
    num_input, num_output = (sum(getattr(r, name) for r in records) for name in ("num_prompt", "num_output"))
    return {
        "requests": len(records),
        "finished": sum(record.num_output == record.num_wanted for record in records),
        "short": sum(record.num_output != record.num_wanted for record in records),
        "errors": sum(bool(record.error) for record in records),
        "in_tokens": num_input,
        "out_tokens": num_output,
        "total_s": round(total_s, 3),
        "out_tok_s": round(num_output / max(total_s, 1e-9), 2),
        "total_tok_s": round((num_input + num_output) / max(total_s, 1e-9), 2),
        **{
            f"{name}_p{percent}_ms": percentile_ms(values, percent)
            for name, values in spans.items()
            for percent in (50, 99)
        },
    }


def peak_rss_mb():
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 1024))


def tree_peak_rss_mb(pid):
    """The sum of the largest resident sizes of a process and of its children that live; None where /proc has none."""
    total, waiting = 0, [pid]
    while waiting:
        place = Path("/proc") / str(waiting.pop())
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = (place / "status").read_text(encoding="utf-8").splitlines()
            total += int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
            for children in (place / "task").glob("*/children"):
                waiting += map(int, children.read_text(encoding="utf-8").split())
    return round(total / 1024) if total else None


def versions(*packages):
    """Of this Python and of the named packages that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def write_row(job, records, total_s, startup_s, *, precision, settings, package_versions, rss_mb=None):
    """Write the row where the job wants it. precision: what the engine said that it computes in, None if unknown."""
    row = {
        **figures(records, total_s),
        "startup_s": round(startup_s, 2),
        "peak_rss_mb": peak_rss_mb() if rss_mb is None else rss_mb,
        "precision_found": precision,
        "settings": settings,
        "versions": package_versions,
    }
    errors = [record.error for record in records if record.error]
    if errors:
        row["first_error"] = errors[0]
    Path(job["row"]).write_text(json.dumps(row), encoding="utf-8")
