"""Real clients against a running server with the bundled model: `python tests/clients/run.py`.

Each client has an environment of its own, made of exactly pinned packages, and a script that calls the server and
compares what it gets with what the engine says when no HTTP is between. Needs the project's packages and a package
index, and nothing else of the network: the checks run with a proxy that leads nowhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from client import CLIENTS, LIMITED_RATE, Client
from environment import Environment
from limited_run import CommandError, limited_run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = "jaxpaged-tiny"
TOKENIZER = ROOT / "jaxpaged" / "tiny"
ORACLE_LIMIT_S = 240
IDLE_S = 10
sys.path.append(str(HERE.parent))

from real_server import RealServer, real_server  # noqa: E402


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a client. install_s, check_s: seconds. size: bytes of its environment. reason: empty if passed."""

    client: Client
    install_s: float = 0.0
    check_s: float = 0.0
    size: int = 0
    reason: str = ""

    def __str__(self) -> str:
        said = "FAILED" if self.reason else "passed"
        times = f"{self.install_s:9.1f} {self.check_s:9.1f} {self.size / 1e6:9.0f}"
        return f"{self.client.name:18}{self.client.version:>9} {times}  {said}"


def main() -> int:
    """Run the clients that were asked for; 0 where all passed."""
    arguments = _arguments()
    clients = [c for c in CLIENTS if c.name in (arguments.only or _names()) and c.name not in arguments.skip]
    # so that what was started is ended then too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    work = Path(tempfile.mkdtemp(prefix="jaxpaged-clients-"))
    began = time.monotonic()
    try:
        outcomes = _run_all(clients, work, arguments.cache or work / "environments")
    finally:
        if arguments.keep:
            print(f"kept: {work}", flush=True)
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"\n{'client':18}{'version':>9} {'install s':>9} {'checks s':>9} {'size MB':>9}")
    print(*outcomes, sep="\n")
    print(f"{time.monotonic() - began:.0f} s in all")
    failed = sum(bool(outcome.reason) for outcome in outcomes)
    print(f"clients: {len(outcomes) - failed} passed, {failed} failed", flush=True)
    return int(failed > 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=_names(), help="these clients (default: all)")
    parser.add_argument("--skip", nargs="+", choices=_names(), default=[], help="all but these")
    parser.add_argument("--cache", type=Path, help="folder of environments that are made once and used again")
    parser.add_argument("--keep", action="store_true", help="keep logs, outputs and environments, and say where")
    return parser.parse_args()


def _names() -> list[str]:
    return [client.name for client in CLIENTS]


def _run_all(clients: Sequence[Client], work: Path, cache: Path) -> list[Outcome]:
    """All of them against one server."""
    expected = work / "expected.json"
    _say("what the engine says")
    search = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    oracle = [sys.executable, str(HERE / "oracle.py"), str(HERE / "cases.json"), str(HERE / "lm-eval"), str(expected)]
    environ = {**os.environ, "PYTHONPATH": search}
    limited_run(oracle, log=work / "oracle.log", limit_s=ORACLE_LIMIT_S, env=environ, cwd=work)
    with ExitStack() as stack:
        key = "sk-of-the-run-0123456789"
        flags = ("--api-key-file", str(_write_keys(work, clients, key)), "--served-model-name", MODEL)
        server = stack.enter_context(real_server(*flags, key=key))
        _say(f"the server is ready after {server.wait_ready():.0f} s")
        outcomes = [_run_one(client, server, work, cache.absolute(), expected) for client in clients]
        status = server.stop()
        assert status == 0, f"the server ended with status {status}"
    (work / "server.log").write_text("\n".join(server.lines))
    return outcomes


def _write_keys(work: Path, clients: Sequence[Client], key: str) -> Path:
    """The server's file of keys: two for each client, one for this program."""
    lines = ["keys:", f"  - {{name: run, key: {key}}}"]
    for client in clients:
        lines.append(f"  - {{name: {client.name}, key: {client.key}}}")
        limit = f"requests_per_minute: {LIMITED_RATE}"
        lines.append(f"  - {{name: {client.name}-limited, key: {client.limited_key}, {limit}}}")
    file = work / "keys.yaml"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines))
    return file


def _run_one(client: Client, server: RealServer, work: Path, cache: Path, expected: Path) -> Outcome:
    """Make its environment, run its checks, and see that it left the server as it was."""
    folder = work / client.name
    folder.mkdir()
    log = folder / "log.txt"
    environment = Environment(client, cache)
    logged = len(server.lines)
    began = time.monotonic()
    installed = None
    reason = ""
    try:
        environment.make(log)
        installed = time.monotonic()
        environ = _environ(client, server, environment, folder, expected)
        limited_run(environment.command(), log=log, limit_s=client.limit_s, env=environ, cwd=folder)
    except CommandError as error:
        reason = str(error)
    ended = time.monotonic()
    reason = reason or _trouble(server, logged)
    outcome = Outcome(
        client=client,
        install_s=(installed or ended) - began,
        check_s=ended - (installed or ended),
        size=environment.size,
        reason=reason,
    )
    if cache.is_relative_to(work):  # the next one needs the room
        shutil.rmtree(environment.folder, ignore_errors=True)
    _say(str(outcome))
    if reason:
        print(reason, *server.lines[logged:][-20:], sep="\n", flush=True)
    return outcome


def _environ(
    client: Client, server: RealServer, environment: Environment, folder: Path, expected: Path
) -> dict[str, str]:
    """All variables of a check: the server and what to expect, a home of its own, all offline switches."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK"), "1")
    return {
        "PATH": os.pathsep.join([str(environment.folder / "bin"), os.environ.get("PATH", os.defpath)]),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "OPENAI_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": client.key,
        "CHECK_LIMITED_KEY": client.limited_key,
        "CHECK_MODEL": MODEL,
        "CHECK_TOKENIZER": str(TOKENIZER),
        "CHECK_EXPECTED": str(expected),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LANGSMITH_TRACING": "false",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **proxies,
        **offline,
    }


def _trouble(server: RealServer, logged: int) -> str:
    """What a client left behind, or the server says of itself since its log had so many lines; empty for nothing."""
    if server.process.poll() is not None:
        return f"the server ended with status {server.process.poll()}"
    wrong = [line for line in server.lines[logged:] if " ERROR " in line or "Traceback" in line]
    if wrong:
        return f"the server logged {len(wrong)} errors, the first: {wrong[0]}"
    until = time.monotonic() + IDLE_S
    while True:
        load = server.request("/load")[1]["server_load"]
        ledger = server.request("/status.json")[1]["ledger"]
        held = sum(ledger[name] for name in ("live", "shared", "tail", "behind"))
        if load == held == 0:
            return ""
        if time.monotonic() > until:
            return f"{IDLE_S} s after its end {load} requests and {held} slots of the KV pool are held"
        time.sleep(0.1)


def _say(text: str) -> None:
    print(f"=== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
