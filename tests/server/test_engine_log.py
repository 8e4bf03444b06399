"""The log of the engine's process has the form of the server's, in every life of it and whoever writes."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_engine
import pytest
from jaxpaged_server.assembly import make_services
from jaxpaged_server.engine_process.restart_policy import RestartPolicy
from jaxpaged_server.engine_process.supervisor import EngineSupervisor
from jaxpaged_server.engine_process.watchdog import WatchLimits
from jaxpaged_server.logs import MAX_LINE_BYTES, LogForm, configure_logging
from jaxpaged_server.settings import ServerConfig

from jaxpaged.config import EngineConfig
from jaxpaged.errors import EngineError, TokenizerError
from jaxpaged.tiny import TINY_MODEL

JSON, TEXT = LogForm(format="json"), LogForm(format="text")
KEY = "sk-secret"


@pytest.fixture
def fronted() -> Iterator[Callable[[LogForm], io.StringIO]]:
    """Start the front end's log, into a text."""
    loggers = [logging.getLogger(name) for name in ("", "jaxpaged", "jaxpaged_server")]
    levels, handlers = [logger.level for logger in loggers], list(loggers[0].handlers)

    def start(form: LogForm) -> io.StringIO:
        stream = io.StringIO()
        configure_logging(form, secrets=(KEY,), stream=stream)
        return stream

    yield start
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def live(config: EngineConfig, form: LogForm, *, behaviour: str = "", lives: int = 1) -> BaseException:
    """Let an engine fail as often as it lives; why it is given up."""

    async def main() -> BaseException:
        options: dict[str, Any] = {"limits": WatchLimits(silence_s=5.0, step_s=0.3, check_s=0.05, dump_s=0.2)}
        if behaviour:
            options["command"] = [sys.executable, fake_engine.__file__, "--behaviour", behaviour]
        policy = RestartPolicy(delays_s=(0.01,) * (lives - 1))
        supervisor = EngineSupervisor(config, policy=policy, log_form=form, **options)
        supervisor.start()
        try:
            return await asyncio.wait_for(supervisor.gone, 60)
        finally:
            await supervisor.stop()

    return asyncio.run(main())


def told(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    return lines


def test_all_that_is_written_in_every_life_is_json(
    fronted: Callable[[LogForm], io.StringIO], capfd: pytest.CaptureFixture[str]
) -> None:
    front = fronted(JSON)
    assert isinstance(live(EngineConfig(), JSON, behaviour="noisy", lives=2), EngineError)
    out, own = capfd.readouterr()
    assert out == ""
    log, warning, thread = told(own)[:3]
    assert [line["logger"] for line in told(own)] == 2 * [log["logger"], warning["logger"], thread["logger"]]
    assert (log["level"], log["logger"], log["message"]) == ("WARNING", "jaxpaged.fake", "a line of\\nthe log")
    assert (warning["logger"], "a warning" in warning["message"]) == ("py.warnings", True)
    assert (thread["level"], thread["message"]) == ("CRITICAL", "the thread careless has failed")
    assert "ValueError: (message withheld" in thread["error"]
    raw = [line for line in told(front.getvalue()) if line["logger"] == "jaxpaged_server.engine_process.output"]
    messages = [line["message"] for line in raw]
    first = messages[: len(messages) // 2]
    assert messages == first * 2, "two lives"
    assert (*first[:2], first[-1]) == ("to stdout", "E1127 xla: with the key ***", "without an end")
    assert "".join(first[2:-1]) == r"\xff\x1b[31m" + "x" * 5000, "a long line is told in pieces"
    assert max(len(line.encode()) for line in front.getvalue().splitlines()) <= MAX_LINE_BYTES
    for text in (own, front.getvalue()):
        assert KEY not in text
        assert "a prompt" not in text


def test_stacks_of_what_hangs_are_lines_too(
    fronted: Callable[[LogForm], io.StringIO], capfd: pytest.CaptureFixture[str]
) -> None:
    front = fronted(JSON)
    live(EngineConfig(), JSON, behaviour="hang")
    assert capfd.readouterr().err == ""
    assert any("fake_engine.py" in line["message"] for line in told(front.getvalue()))


def test_text_goes_where_the_front_end_s_goes(
    fronted: Callable[[LogForm], io.StringIO], capfd: pytest.CaptureFixture[str]
) -> None:
    front = fronted(TEXT)
    live(EngineConfig(), TEXT, behaviour="noisy")
    own = capfd.readouterr().err
    assert "Z WARNING jaxpaged.fake: a line of\\nthe log\n" in own
    assert "\nto stdout\n" in own
    assert "to stdout" not in front.getvalue()
    assert "a prompt" not in own


def test_the_real_process_says_in_json_why_it_ended(
    fronted: Callable[[LogForm], io.StringIO], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    front = fronted(JSON)
    shutil.copy(TINY_MODEL / "config.json", tmp_path)
    (tmp_path / "generation_config.json").write_text('{"num_beams": 2}')
    assert isinstance(live(EngineConfig(model=str(tmp_path)), JSON), TokenizerError)
    warning, end = told(capfd.readouterr().err)
    assert (warning["level"], warning["logger"]) == ("WARNING", "jaxpaged.sampling_defaults")
    assert warning["message"].endswith("num_beams=2")
    assert (end["level"], end["message"]) == ("CRITICAL", "the engine cannot start")
    assert end["logger"] == "jaxpaged_server.engine_process.worker"
    assert "TokenizerError: tokenizer is" in end["error"]
    assert [line["logger"] for line in told(front.getvalue())] == ["jaxpaged_server.engine_process.supervisor"]


def test_a_level_holds_in_the_process_too(
    fronted: Callable[[LogForm], io.StringIO], capfd: pytest.CaptureFixture[str]
) -> None:
    fronted(JSON)
    live(EngineConfig(), LogForm(level="CRITICAL", format="json"), behaviour="noisy")
    assert [line["level"] for line in told(capfd.readouterr().err)] == ["CRITICAL"]


async def test_the_server_hands_its_form_on() -> None:
    services = make_services(EngineConfig(), ServerConfig(log_format="json", log_level="DEBUG"))
    assert services.engine.log_form == LogForm(level="DEBUG", format="json")
    await services.close()
