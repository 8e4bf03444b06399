"""The extractor of the set-up commands that .ci/run runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_readme", ROOT / ".ci" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_two_commands_make_their_own_environment(readme: ModuleType) -> None:
    generate, test = readme.set_up_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert "-m venv" in generate
    assert "pip install ." in generate
    assert "jaxpaged generate" in generate
    assert "-m venv" in test
    assert ".[test]" in test
    assert "pytest" in test


@pytest.mark.parametrize(
    "text",
    [
        "# x\n```sh\na\n```\n```sh\nb\n```\n",
        "## Set up\n```sh\na\n```\n## Use\n```sh\nb\n```\n",
        "## Set up\n```sh\na\n```\n```sh\nb\n```\n```sh\nc\n```\n",
    ],
)
def test_not_exactly_two_commands_are_refused(readme: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="Set up"):
        readme.set_up_commands(text)


def test_blocks_of_other_kinds_do_not_count(readme: ModuleType) -> None:
    text = "## Set up\n```console\n$ x\n```\n```sh\na &&\nb\n```\ntext\n```sh\nc\n```\n## Use\n```sh\nd\n```\n"
    assert readme.set_up_commands(text) == ("a &&\nb", "c")


def test_the_generated_text_is_what_follows_the_prompt(readme: ModuleType) -> None:
    assert readme.prompt_of('a && b generate "def f(n):"') == "def f(n):"
    assert readme.generated_text("installing\ndef f(n):\n    return n\n", "def f(n):") == "\n    return n\n"
    with pytest.raises(ValueError, match="begins no line"):
        readme.generated_text("installing def f(n): x\n", "def f(n):")
