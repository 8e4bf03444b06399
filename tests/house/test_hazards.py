"""Nothing that is shipped runs what it reads: by its syntax tree (PICKLE and REMOTE of docs/SECURITY.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("jaxpaged", "pallas_kernels", "server", "docker", ".ci")
MODULES = frozenset(
    {
        *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "jsonpickle", "joblib", "marshal", "shelve"),
        *("multiprocessing", "runpy", "code", "codeop"),
        "jax.experimental.serialize_executable",
    }
)
"""Those that run code out of data; multiprocessing pickles what goes between its processes."""
CALLS = frozenset(
    {
        *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile"),
        *("os.system", "os.popen", "torch.load", "torch.hub.load"),
        *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load"),
        *("yaml.full_load_all", "yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader"),
        *("pandas.read_pickle", "logging.config.listen"),
    }
)
METHODS = frozenset({"recv_pyobj", "send_pyobj", "read_pickle"})
WORDS = frozenset({"trust_remote_code", "allow_pickle"})
EXPECTED = {
    "jaxpaged/bundle.py: jax.experimental.serialize_executable": "a bundle is code, and says so (docs/DECISIONS.md)",
    "jaxpaged/verify/oracle.py: trust_remote_code": "False, said to transformers, which would ask a terminal otherwise",
}
"""What is there on purpose, and why."""


def hazards(source: str) -> Iterator[str]:
    """What in a module could run data, by its full name however it was imported."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else ""
                yield from _module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield from _module(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _call(node, names)
        elif isinstance(node, ast.Attribute | ast.Name):
            yield from {_full_name(node, names)} & (CALLS - {"compile"})
        if isinstance(node, ast.Constant) and node.value in WORDS:
            yield str(node.value)  # as a key of a dict of options


def _module(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)} & MODULES


def _call(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    called = _full_name(node.func, names)
    if called == "compile":
        yield called
    if called.endswith("import_module") and node.args and isinstance(node.args[0], ast.Constant):
        yield from _module(str(node.args[0].value))
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        yield node.func.attr
    for each in node.keywords:
        if each.arg in WORDS or (each.arg == "shell" and not _is_false(each.value)):
            yield str(each.arg)


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    """Of a name or attribute, as its module would say it; numpy and the like under whatever alias."""
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, names)}.{node.attr}"
    return (names.get(node.id) or node.id) if isinstance(node, ast.Name) else ""


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("import numpy, marshal as m", "marshal"),
        ("from multiprocessing.connection import Client", "multiprocessing"),
        ("def f():\n    from shelve import open", "shelve"),
        ("from importlib import import_module\nimport_module('dill')", "dill"),
        ("from jax.experimental import serialize_executable as s", "jax.experimental.serialize_executable"),
        ("eval('1')", "eval"),
        ("run = exec", "exec"),
        ("compile('1', '', 'eval')", "compile"),
        ("import builtins\nbuiltins.eval('1')", "builtins.eval"),
        ("import torch\ntorch.load(path, weights_only=True)", "torch.load"),
        ("from torch import load as read\nread(path)", "torch.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "allow_pickle"),
        ("options = {'allow_pickle': True}", "allow_pickle"),
        ("import yaml\nyaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("from yaml import unsafe_load", "yaml.unsafe_load"),
        ("AutoModel.from_pretrained(name, trust_remote_code=False)", "trust_remote_code"),
        ("import subprocess\nsubprocess.run(line, shell=True)", "shell"),
        ("import os\nos.system('x')", "os.system"),
        ("socket.recv_pyobj()", "recv_pyobj"),
    ],
)
def test_pickle_each_hazard_is_seen(source: str, found: str) -> None:
    uses = f"{source}\nunsafe_load" if "unsafe_load" in source else source
    assert found in set(hazards(uses))


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('a')\nmodel.eval()\nengine.compile(bucket)",
        "import json, msgspec\njson.loads(text)\nmsgspec.msgpack.decode(data)",
        "import numpy as np\nnp.load(path)",
        "import yaml\nyaml.safe_load(text)\nyaml.SafeLoader(text)",
        "# pickle.load, eval and trust_remote_code in words alone\nname = 'weights are pickles'",
        "import subprocess\nsubprocess.run([program], shell=False)",
    ],
)
def test_pickle_what_is_harmless_is_not_seen(source: str) -> None:
    assert not set(hazards(source))


def test_pickle_nothing_that_is_shipped_runs_data() -> None:
    found: set[str] = set()
    files = [path for folder in SHIPPED for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 150
    for path in files:
        place = path.relative_to(ROOT).as_posix()
        found |= {f"{place}: {hazard}" for hazard in hazards(path.read_text(encoding="utf-8"))}
    assert found == set(EXPECTED)
