from __future__ import annotations

import json

import pytest
from jaxpaged_server.metrics.orca import load_report

LOAD = {"kv_cache_usage_perc": 0.25, "num_requests_waiting": 3.0}


@pytest.mark.parametrize("asked", ["TEXT", "text", " Text "])
def test_the_text_form(asked: str) -> None:
    assert load_report(asked, LOAD) == {
        "endpoint-load-metrics": "TEXT named_metrics.kv_cache_usage_perc=0.25, named_metrics.num_requests_waiting=3.0"
    }


@pytest.mark.parametrize("asked", ["JSON", "json"])
def test_the_json_form(asked: str) -> None:
    (header,) = load_report(asked, LOAD).values()
    assert header == 'JSON {"named_metrics": {"kv_cache_usage_perc": 0.25, "num_requests_waiting": 3.0}}'
    assert json.loads(header.removeprefix("JSON ")) == {"named_metrics": LOAD}


@pytest.mark.parametrize("asked", [None, "", "BIN", "text\r\nX-Evil: 1", "texts"])
def test_nothing_is_told_unasked(asked: str | None) -> None:
    assert load_report(asked, LOAD) == {}


def test_whole_numbers_are_told_as_numbers_too() -> None:
    assert load_report("text", {"a": 2}) == {"endpoint-load-metrics": "TEXT named_metrics.a=2.0"}
