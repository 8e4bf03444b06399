"""How Python is started again, for children. [host half: no jax]"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from jaxpaged.parent import PARENT

PYTHON = (sys.executable, "-P")
"""-P: what lies in the current folder, which may be a stranger's model, is not imported."""


KEY_VARIABLES = ("JAXPAGED_API_KEY", "VLLM_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Those that hold a key: for the process that fetches models, serves or asks, not for those that it starts."""


def environment_of(*homes: Path) -> dict[str, str]:
    """This process's environment without its keys, and who that is. homes: folders of packages, which are found though
    no fresh Python would look there.
    """
    folders = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))]
    looked_at = {Path(folder) for folder in folders}
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*sorted(map(str, {*homes} - looked_at)), *([given] if given else [])])
    kept = {name: value for name, value in os.environ.items() if name not in KEY_VARIABLES}
    return {**kept, PARENT: str(os.getpid()), **({"PYTHONPATH": path} if path else {})}


def start_from_own_thread(
    command: Sequence[str], *, env: dict[str, str]
) -> tuple[subprocess.Popen[bytes], Callable[[], None]]:
    """Start a child with pipes for its input and output, in a session of its own: ctrl-C is for the parent.

    Returns it and what ends the thread that started it. Linux ends a child that asks for it (`end_with_parent`) when
    that *thread* ends, and those that need one come and go. Raises OSError.
    """
    started: Future[subprocess.Popen[bytes]] = Future()
    over: SimpleQueue[None] = SimpleQueue()  # its put may be called while memory is collected

    def run() -> None:
        try:
            pipe = subprocess.PIPE
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, start_new_session=True)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(child)
        del child  # whose pipes close with those who use it
        over.get()

    let_go = partial(over.put, None)
    Thread(target=run, name="keeps a child", daemon=True).start()
    try:
        return started.result(), let_go
    except BaseException:
        let_go()
        raise
