"""A line of the log: one line, short, clean, and without what a client said."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxpaged_server.logs import (
    MAX_LINE_BYTES,
    LineFormatter,
    LogForm,
    RequestEntry,
    access_line,
    configure_logging,
    for_request,
)
from jaxpaged_server.settings import ServerConfig

from jaxpaged.errors import ConfigError, EngineError, PromptError

LOG = logging.getLogger("jaxpaged_server.test")
FORMS = ["text", "json"]


@pytest.fixture
def logged() -> Iterator[Callable[..., io.StringIO]]:
    """Start logging into a text; everything is as it was afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "jaxpaged", "jaxpaged_server")]
    levels = [logger.level for logger in loggers]
    handlers: list[logging.Handler] = []

    def start(**options: Any) -> io.StringIO:
        stream, config = io.StringIO(), ServerConfig(**options)
        handlers.append(configure_logging(config.log_form, secrets=config.api_key, stream=stream))
        return stream

    yield start
    for handler in handlers:
        logging.getLogger().removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("jaxpaged_server.x", logging.INFO, "x.py", 1, message, args, info)


def json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(["levelname", "message"])


def test_text_has_the_time_the_level_and_the_logger(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()
    LOG.info("ready in %d s", 3)
    line = stream.getvalue()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO jaxpaged_server\.test: ready in 3 s\n", line), (
        line
    )


def test_json_has_the_same_by_name(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(log_format="json")
    for_request(LOG, "req-7").warning("slow")
    line = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", line.pop("time"))
    assert line == {"level": "WARNING", "logger": "jaxpaged_server.test", "message": "slow", "request_id": "req-7"}


def test_the_request_is_named_in_text(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()
    for_request(LOG, "req-7\n").warning("slow")
    assert stream.getvalue().endswith("WARNING jaxpaged_server.test: slow [req-7\\n]\n")


@pytest.mark.parametrize("form", FORMS)
def test_nobody_can_forge_a_line_or_paint_the_terminal(logged: Callable[..., io.StringIO], form: str) -> None:
    stream = logged(log_format=form)
    LOG.warning("%s", "a\r\nERROR forged\x1b[31m\x00\x9b2J\u2028\u202e")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    message = json.loads(lines[0])["message"] if form == "json" else lines[0].split(": ", 1)[1]
    assert message == r"a\r\nERROR forged\x1b[31m\x00\x9b2J\u2028\u202e"


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=500) | st.text(st.sampled_from('é\\"\n😀'), min_size=1000, max_size=2500), st.booleans())
def test_a_line_is_one_line_of_at_most_4_kib(text: str, as_json: bool) -> None:
    line = LineFormatter(json_formatter() if as_json else None).format(
        record("%s", text, error=EngineError(name="x", value=text, limit=text))
    )
    assert len(line.encode()) <= MAX_LINE_BYTES
    assert line.splitlines() == [line]
    assert "\x1b" not in line
    if as_json:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", json.loads(line)["message"])


def test_a_long_line_says_that_it_was_cut(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()
    LOG.info("x" * 10_000)
    assert stream.getvalue().endswith("xxx...[cut]\n")
    assert 4000 < len(stream.getvalue()) <= MAX_LINE_BYTES + 1


@pytest.mark.parametrize("form", FORMS)
def test_keys_are_not_shown_even_where_they_are_logged(logged: Callable[..., io.StringIO], form: str) -> None:
    stream = logged(log_format=form, api_key=("sesame", "sesame-street"))
    LOG.warning("got sesame-street, and %s", {"Authorization": "Bearer abc.def"})
    LOG.warning("authorization: BASIC dXNlcjpwYXNz end")
    assert "sesame" not in stream.getvalue()
    assert "street" not in stream.getvalue()
    assert "abc" not in stream.getvalue()
    assert "dXNl" not in stream.getvalue()
    assert "BASIC *** end" in stream.getvalue()


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_an_error_tells_its_frames_but_not_what_the_request_said() -> None:
    secret = "the prompt"
    shown = LineFormatter()
    told = shown.format(record("failed", error=raised(KeyError(secret))))
    assert "KeyError: (message withheld: it may quote a request) at " in told
    assert f"{__file__}:" in told
    assert secret not in told
    told = shown.format(record("failed", error=raised(PromptError(name="prompt", value=secret, limit="it is empty"))))
    assert "PromptError: prompt: it is empty at" in told
    assert secret not in told
    with pytest.raises(UnicodeEncodeError) as bad:
        f"{secret}\ud800".encode()
    told = shown.format(record("failed", error=raised(RuntimeError("step 3"), bad.value)))
    assert "RuntimeError: step 3 at" in told
    assert "; because of UnicodeEncodeError: (message withheld" in told
    assert secret not in told


def test_of_a_deep_stack_both_ends_are_kept() -> None:
    def fall(depth: int) -> None:
        if depth == 0:
            raise OSError("the end of it")
        fall(depth - 1)

    with pytest.raises(OSError, match="the end") as deep:
        fall(200)
    line = LineFormatter().format(record("failed", error=deep.value))
    assert "OSError: the end of it" in line
    assert line.endswith(" fall")
    assert len(line.encode()) <= MAX_LINE_BYTES


def test_a_call_with_the_wrong_arguments_costs_no_line() -> None:
    assert LineFormatter().format(record("%d of %d", 1)).endswith(": %d of %d (its arguments do not fit)")


def test_levels_are_for_our_own_loggers(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(log_level="debug")
    LOG.debug("ours")
    logging.getLogger("aiohttp.server").info("theirs")
    logging.getLogger("aiohttp.server").warning("their warning")
    assert [line.split(": ", 1)[1] for line in stream.getvalue().splitlines()] == ["ours", "their warning"]


def test_a_second_call_replaces_the_first(logged: Callable[..., io.StringIO]) -> None:
    first, second = logged(), logged(log_level="error")
    LOG.error("once")
    LOG.warning("never")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert "never" not in second.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_the_line_of_a_request(logged: Callable[..., io.StringIO], form: str) -> None:
    stream = logged(log_format=form)
    access_line(
        RequestEntry(
            method="POST",
            route="/v1/chat/completions",
            status=200,
            ms=812.34,
            request_id="r1",
            prompt_tokens=12,
            completion_tokens=64,
            key_name="team-a",
        )
    )
    line = stream.getvalue()
    if form == "text":
        told = "POST /v1/chat/completions 200 812.3 ms, 12 + 64 tokens, key team-a [r1]\n"
        assert line.endswith(f" INFO jaxpaged_server.access: {told}")
        return
    fields = json.loads(line)
    assert {name: fields[name] for name in ("method", "route", "status", "ms", "key_name", "request_id")} == {
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "ms": 812.3,
        "key_name": "team-a",
        "request_id": "r1",
    }
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (12, 64)


def test_json_without_its_library_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pythonjsonlogger.json", None)
    with pytest.raises(ConfigError, match=r"python-json-logger is not installed.*jaxpaged\[json-logs\]"):
        configure_logging(LogForm(format="json"))
