"""Comparisons for tests: engines that are scripts, each doing what its options say."""

from __future__ import annotations

import json
from pathlib import Path

FAKE = """
import json, os, sys, time
job = json.load(open(sys.argv[1]))
options = job["options"]
open(options["journal"], "a").write(options["name"] + " " + os.path.basename(job["trace"]) + "\\n")
round_of_mine = open(options["journal"]).read().splitlines().count(
    options["name"] + " " + os.path.basename(job["trace"])
)
print("fake engine at work")
if options.get("sleep"):
    open(options["journal"] + ".sleeps", "w").write(str(os.getpid()))
    time.sleep(options["sleep"])
if options.get("crash_in_round") == round_of_mine:
    sys.exit("out of luck")
row = {"out_tok_s": options["rates"][round_of_mine - 1], "ttft_p50_ms": 10.0, "requests": 4, "short": 0, "errors": 0,
       "settings": {"threads": job["threads"]}, "versions": {"fake": "1.2"}, **options.get("row", {})}
if not options.get("silent"):
    json.dump(row, open(job["row"], "w"))
"""


def write_config(folder: Path, engines: str, *, head: str = "", cases: str = "") -> Path:
    """A TOML file beside a model folder, a trace and the fake engine."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "fake.py").write_text(FAKE)
    (folder / "off.jsonl").write_text(json.dumps({"prompt_ids": [1], "max_tokens": 2}) + "\n")
    path = folder / "compare.toml"
    cases = cases or '[[cases]]\nname = "load"\nmodel = "m"\ntrace = "off.jsonl"\n'
    path.write_text(f'threads = 1\nrounds = 2\ntimeout_s = 30\n{head}\n[models.m]\nhf = "model"\n{cases}\n{engines}')
    return path


def fake(folder: Path, name: str, rates: str, *, precision: str = "f32", more: str = "", cases: str = "") -> str:
    """An engine that takes the next of its rates in each run."""
    options = f'journal = "{folder}/journal", name = "{name}", rates = {rates}{more}'
    return (
        f'[[engines]]\nname = "{name}"\nkind = "script"\nscript = "./fake.py"\nprecision = "{precision}"\n{cases}'
        f"options = {{ {options} }}\n"
    )
