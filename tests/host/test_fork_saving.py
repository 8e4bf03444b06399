"""What forks save, by a trace of known lengths."""

from __future__ import annotations

from fork_saving import BLOCK, sample, trace


def test_blocks_by_hand() -> None:
    lengths = [(40, [10, 10, 10, 10])]  # two full blocks and half a one; answers end in the fourth
    forks = sample(lengths, forks=True, prefix_caching=True)
    assert forks.blocks[:2] == [3, 2 + 4]  # the tail is shared until it is written
    assert (forks.peak, forks.named[-1]) == (2 + 2 * 4, 4 * 4)
    assert sample(lengths, forks=False, prefix_caching=False).peak == 4 * 4
    assert BLOCK == 16


def test_forks_hold_less_than_separate_requests_whatever_these_share() -> None:
    lengths = trace("Alpaca", 6, 4)
    forks, cached, separate = (
        sample(lengths, forks=forks, prefix_caching=prefix)
        for forks, prefix in ((True, True), (False, True), (False, False))
    )
    assert forks.peak < cached.peak <= separate.peak
    assert forks.saved > 0
