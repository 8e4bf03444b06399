"""The cases themselves: what they draw can be seen in the logits, and their contexts go past what they are to pass."""

from __future__ import annotations

import re

import pytest
from families.case import LONGEST
from families.evidence import TOLERANCE, Evidence
from families.folder import unseen

pytestmark = pytest.mark.families


def test_every_parameter_shows(evidence: Evidence) -> None:
    patterns = evidence.case.unseen
    found = unseen(evidence.oracle, threshold=10 * TOLERANCE)
    assert [name for name in found if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in found)] == []


def test_contexts_go_past_windows_and_original_contexts(evidence: Evidence) -> None:
    config = evidence.oracle.config
    ropes = getattr(config, "rope_parameters", None) or {}
    nested = [rope for rope in ropes.values() if isinstance(rope, dict)] or [ropes]
    originals = [rope.get("original_max_position_embeddings") or 0 for rope in nested]
    assert max(originals) < LONGEST // 2
    assert (getattr(config, "sliding_window", None) or 0) < LONGEST // 2
    assert (getattr(config, "max_position_embeddings", None) or LONGEST) >= LONGEST
