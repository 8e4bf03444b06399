"""What users send is never checked by `assert`: a Python without assertions refuses the same in the same words
(NOASSERT of the advisories)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bad_requests
from real_server import ROOT


async def test_noassert_without_assertions_the_same_is_refused(tmp_path: Path) -> None:
    search = os.pathsep.join(map(str, (ROOT, ROOT / "server", ROOT / "tests")))
    with subprocess.Popen(
        [sys.executable, bad_requests.__file__],
        # not -O: the processes that this one starts are to leave them out as well
        env={**os.environ, "PYTHONPATH": search, "PYTHONOPTIMIZE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        told, refused = await bad_requests.statuses(), bad_requests.refusals(tmp_path)
        output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    without = json.loads(output)
    assert without["debug"] is False
    *replies, let_in = told
    assert let_in == "0 were let in"
    assert [reply for reply in replies if not reply.startswith("4")] == []
    assert [error for error in refused if error.startswith(("taken", "AssertionError"))] == []
    assert without["statuses"] == told
    assert without["refusals"] == refused
