"""Chat templates in a process of their own: same text as in this one, and an end to those that do not end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hostile_templates import FORMATS, HOSTILE
from jaxpaged_server.access.keys import ANONYMOUS
from jaxpaged_server.children import child_environment
from jaxpaged_server.errors import failure_of
from jaxpaged_server.templating.renderer import TemplateRenderer

from jaxpaged.children import PYTHON
from jaxpaged.errors import ChildError, PromptError, TokenizerError
from jaxpaged.parent import PARENT
from jaxpaged.templating.wire import COMMAND
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer

MESSAGES = [{"role": "user", "content": "hello"}]
WORST = ("an endless loop", "a number with a billion digits", "a long string", "doubling", "attributes", "a big power")


async def render(renderer: TemplateRenderer, template: str | None = None, **variables: object) -> str:
    return await renderer.render(
        ANONYMOUS, MESSAGES, add_generation_prompt=True, variables=variables, most=10_000, template=template
    )


def children() -> list[int]:
    """Processes that this one has started, templates' children."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if b"templating" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_the_text_is_that_of_this_process() -> None:
    renderer = TemplateRenderer(str(TINY_MODEL))
    try:
        here = Tokenizer.load(TINY_MODEL).apply_chat_template(MESSAGES, add_generation_prompt=True)
        assert await render(renderer) == here
        assert await asyncio.gather(*(render(renderer) for _ in range(8))) == [here] * 8
    finally:
        await renderer.close()


async def check_hostile(names: Iterable[str]) -> None:
    renderer = TemplateRenderer(str(TINY_MODEL), limit_s=0.5)
    try:
        good = await render(renderer)
        for name in names:
            began = time.monotonic()
            with pytest.raises((PromptError, TokenizerError)) as refused:
                await render(renderer, HOSTILE[name])
            assert time.monotonic() - began < 5, name
            assert "Traceback" not in str(refused.value), name
            assert len(str(refused.value)) < 700, name
        assert await render(renderer) == good
        for template in FORMATS:
            with contextlib.suppress(PromptError):
                assert await render(renderer, template) == ""
    finally:
        await renderer.close()


async def test_hostile_templates_end_in_time_and_the_next_one_is_served() -> None:
    await check_hostile(WORST)


@pytest.mark.long
async def test_all_hostile_templates_end_in_time() -> None:
    await check_hostile(HOSTILE)


def test_a_template_that_does_not_end_ends_with_a_killed_server() -> None:
    code = f"""
import asyncio, os
from jaxpaged_server.access.keys import ANONYMOUS
from jaxpaged_server.errors import failure_of
from jaxpaged_server.templating.renderer import TemplateRenderer

async def main():
    renderer = TemplateRenderer({str(TINY_MODEL)!r}, limit_s=60)
    asked = dict(messages=[{{'role': 'user'}}], add_generation_prompt=True, variables={{}}, most=10)
    await renderer.render(ANONYMOUS, **asked, template="")
    print(renderer._idle[0].pid, flush=True)
    await renderer.render(ANONYMOUS, **asked, template={HOSTILE["an endless loop"]!r})

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], env=child_environment(), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        child = int(server.stdout.readline())
        before = cpu_ticks(child)
        until = time.monotonic() + 20
        while cpu_ticks(child) < before + 10:  # 0.1 s within the template
            assert time.monotonic() < until, "the template does not run"
            time.sleep(0.02)
        server.kill()
    try:
        until = time.monotonic() + 10
        while is_there(child):
            assert time.monotonic() < until, "it goes on without anybody"
            time.sleep(0.02)
    finally:
        if is_there(child):
            os.kill(child, signal.SIGKILL)


def test_a_child_that_starts_too_late_ends_at_once() -> None:
    environment = {**child_environment(), PARENT: "1"}
    command = [*PYTHON, *COMMAND]
    assert subprocess.run(command, env=environment, stdin=subprocess.PIPE, timeout=60).returncode == 1


async def test_a_child_that_does_not_start_is_no_fault_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = TemplateRenderer(str(TINY_MODEL))
    with monkeypatch.context() as patched:
        patched.setattr("jaxpaged_server.templating.renderer.COMMAND", ("-c", "raise SystemExit(3)"))
        with pytest.raises(ChildError) as refused:
            await render(renderer)
    told = failure_of(refused.value)
    assert (told.status, told.reply.error.code) == (503, "not_ready")
    assert "must start within 20 s" in told.reply.error.message
    assert await render(renderer)
    await renderer.close()


async def test_children_do_not_get_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAXPAGED_API_KEY", "VLLM_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "sk-secret")
    monkeypatch.setenv("JAXPAGED_TEST_OTHER", "kept")
    renderer = TemplateRenderer(str(TINY_MODEL))
    try:
        await render(renderer)
        given = Path(f"/proc/{renderer._idle[0].pid}/environ").read_bytes()
    finally:
        await renderer.close()
    assert b"sk-secret" not in given
    assert b"JAXPAGED_TEST_OTHER=kept" in given
    assert "sk-secret" not in child_environment().values()  # the engine's process has it from there, too


def cpu_ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def is_there(pid: int) -> bool:
    """Whether a process lives; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_crash_what_a_request_holds_does_not_end_the_child(capfd: pytest.CaptureFixture[str]) -> None:
    nested: dict[str, object] = {}
    for _ in range(600):
        nested = {"a": nested}
    renderer = TemplateRenderer(str(TINY_MODEL), workers=1)
    try:
        good = await render(renderer)
        (child,) = renderer._idle
        for case in (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [nested]}]},
            {"variables": {"self": 1}},
            {"template": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"},
            {"template": "{{ " + "9" * 5000 + " }}"},
        ):
            asked = {"messages": MESSAGES, "variables": {}, "template": None, **case}
            with pytest.raises(PromptError, match=r"the chat template fails|nested too deeply") as refused:
                await renderer.render(ANONYMOUS, **asked, add_generation_prompt=True, most=10_000)
            assert len(str(refused.value)) < 300
        assert await render(renderer) == good
        assert renderer._idle == [child]
    finally:
        await renderer.close()
    assert capfd.readouterr().err == ""


async def test_remote_the_child_imports_nothing_from_the_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jinja2", "msgspec", "tokenizers", "json"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w').close()\nraise ImportError('a stranger')")
    monkeypatch.chdir(tmp_path)
    renderer = TemplateRenderer(str(TINY_MODEL))
    try:
        assert "hello" in await render(renderer)
    finally:
        await renderer.close()
    assert not (tmp_path / "canary").exists()


async def test_numbers_that_do_not_fit_are_refused() -> None:
    renderer = TemplateRenderer(str(TINY_MODEL))
    with pytest.raises(PromptError, match="more than 64 bits"):
        await renderer.render(
            ANONYMOUS,
            [{"role": "user", "content": "a", "tool_calls": [{"a": 2**64}]}],
            add_generation_prompt=True,
            variables={},
            most=100,
        )


async def test_a_reader_who_leaves_does_not_mix_up_answers() -> None:
    renderer = TemplateRenderer(str(TINY_MODEL), workers=1)
    try:
        good = await render(renderer)
        slow = asyncio.create_task(render(renderer, "{% for a in range(99999) %}{{ a }}{% endfor %}"))
        await asyncio.sleep(0.005)
        (child,) = children()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await render(renderer) == good
        assert children() == [child], "a new one takes half a second to start"
        last = asyncio.create_task(render(renderer, "{% for a in range(99999) %}{{ a }}{% endfor %}"))
        await asyncio.sleep(0.005)
        last.cancel()
    finally:
        await renderer.close()


async def test_signals_to_the_whole_group_do_not_end_a_child(capfd: pytest.CaptureFixture[str]) -> None:
    renderer = TemplateRenderer(str(TINY_MODEL), workers=1)
    try:
        good = await render(renderer)
        (child,) = children()
        assert os.getsid(child) == child, "Ctrl-C in a terminal would reach it"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(child, number)
        assert await render(renderer) == good
        assert children() == [child]
    finally:
        await renderer.close()
    assert "Traceback" not in capfd.readouterr().err


async def test_what_lies_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "dis", "msgspec", "jinja2"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    renderer = TemplateRenderer(str(TINY_MODEL))
    try:
        assert "hello" in await render(renderer)
    finally:
        await renderer.close()


async def test_what_a_template_refuses_is_told(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((TINY_MODEL / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ raise_exception('no') }}"}))
    renderer = TemplateRenderer(str(tmp_path))
    try:
        with pytest.raises(PromptError, match="the chat template refuses: no"):
            await render(renderer)
    finally:
        await renderer.close()
