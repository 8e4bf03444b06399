"""docs/SECURITY.md names tests; they are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLASSES = {
    *("PICKLE", "REMOTE", "TEMPLATE", "KWARGS", "REGEX", "GRAMMAR", "TOOLPARSE", "IDS", "FLOAT", "COUNT", "LEN"),
    *("EMPTY", "JSON", "HTTP", "BOMB", "AUTH", "CSRF", "SSRF", "PATH", "BIND", "ADMIN", "SALT", "HASH", "NEIGHBOUR"),
    *("POISON-KV", "INT32", "ABORT", "RELEASE", "CRASH", "NOASSERT", "ERR", "LOG", "HEALTH", "FILE", "SUPPLY"),
}


def rows() -> dict[str, list[str]]:
    """The tests of each class."""
    text = (ROOT / "docs" / "SECURITY.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| ([A-Z0-9-]+) \|.*\| (`[^|]*) \|$", text, re.MULTILINE)
    return {name: re.findall(r"`([^`]+)`", tests) for name, tests in lines}


@cache
def defined(file: str) -> frozenset[str]:
    """Functions and names of a test module."""
    path = ROOT / "tests" / file
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = {
        target.id
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return frozenset(functions | assigned)


def test_every_class_of_advisories_has_a_test() -> None:
    assert set(rows()) == CLASSES
    assert all(rows().values())


def test_every_test_that_is_named_is_there() -> None:
    named = {test for tests in rows().values() for test in tests}
    assert {test for test in named if test.partition("::")[2] not in defined(test.partition("::")[0])} == set()
