"""Forms that a stranger has changed, against a real server: each is kept to, or refused with its place named; no reply
of 500 and above, and a server that is as it was afterwards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import pytest
from fuzz.mutations import documents
from fuzz.structured_seeds import OTHERS, SEEDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_server import RealServer, real_server

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(1800)]
CASES = 1200
PLAIN = {"prompt": "def f", "max_tokens": 8, "temperature": 0}
LONGEST_REPLY_S = 20.0


@dataclass
class Attacked:
    """The server, and how often it answered with each status."""

    server: RealServer
    told: Counter[int] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def attacked() -> Iterator[Attacked]:
    with real_server("--max-num-seqs", "16", "--max-model-len", "256") as server:
        server.wait_ready()
        before = server.request("/v1/completions", PLAIN)[1]["choices"]
        attacked = Attacked(server)
        yield attacked
        print(dict(attacked.told))
        assert min(attacked.told[200], attacked.told[400]) > CASES // 20, "nearly all were taken, or nearly none"
        assert server.request("/v1/completions", PLAIN)[1]["choices"] == before
        assert server.metric("jaxpaged:engine_restarts_total") == 0
        assert not [line for line in server.lines if "Traceback" in line]


@settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck))  # pyright: ignore[reportArgumentType]
@given(st.sampled_from(SEEDS).flatmap(lambda seed: documents(seed, others=OTHERS)), st.integers(0, 2**31))
def test_a_changed_form_is_kept_to_or_refused(attacked: Attacked, fields: Any, seed: int) -> None:
    if not isinstance(fields, dict):
        return
    body = {"prompt": "a", **fields, "max_tokens": 24, "seed": seed}
    try:
        json.dumps(body, allow_nan=False)
    except ValueError:  # no JSON: another test's
        return
    status, reply = attacked.server.request("/v1/completions", body, timeout_s=LONGEST_REPLY_S)
    attacked.told[status] += 1
    assert status in (200, 400), (status, reply, body)
    if status == 400:
        assert reply["error"]["message"], body
        return
    (choice,) = reply["choices"]
    asked = fields.get("response_format") or {}
    if choice["finish_reason"] == "stop" and asked.get("type") == "json_schema":
        schema = asked["json_schema"]["schema"]
        jsonschema.Draft202012Validator(schema).validate(json.loads(choice["text"]))
