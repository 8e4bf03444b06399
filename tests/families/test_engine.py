"""Every case through the whole engine, batched, chunked, with prefix hits, past windows and a rope's original context:
64 greedy tokens as transformers has them, and the logits at every place that a step computed."""

from __future__ import annotations

import pytest
from families.engine_run import OUTPUT
from families.evidence import TOLERANCE, Evidence

pytestmark = pytest.mark.families


def test_the_engine_takes_the_tokens_of_transformers(evidence: Evidence) -> None:
    run, greedy = evidence.run(), evidence.greedy()
    assert {len(tokens) for tokens in run.tokens} == {OUTPUT}
    assert greedy.wrong == ()
    assert len(greedy.ties) <= 1, greedy.ties
    assert greedy.error < TOLERANCE
    assert run.cached >= 32, "the common beginning must come from the prefix cache"
