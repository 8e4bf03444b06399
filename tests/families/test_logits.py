"""Float32 logits of every case against transformers, and how near bfloat16 stays."""

from __future__ import annotations

import pytest
from families.evidence import BFLOAT16, TOLERANCE, Evidence

from pallas_kernels.backend import Backend

pytestmark = pytest.mark.families


@pytest.mark.parametrize(("backend", "block_size"), [(Backend.REFERENCE, 16), (Backend.XLA, 64)])
def test_logits_are_those_of_transformers(evidence: Evidence, backend: Backend, block_size: int) -> None:
    assert evidence.paged_error(backend, block_size=block_size) < TOLERANCE


def test_bfloat16_stays_near(evidence: Evidence) -> None:
    assert evidence.bfloat16_error < BFLOAT16[evidence.case.has_experts]
