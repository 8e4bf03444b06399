"""The numbers of admission: what follows from the engine's sizes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from beats import engine_info
from jaxpaged_server.admission.gate import Gate
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.assembly import admission_sizes
from jaxpaged_server.commands.serve import read_options
from jaxpaged_server.settings import ServerConfig

from jaxpaged.errors import ConfigError


def test_the_default_sizes() -> None:
    config = AdmissionConfig(max_num_seqs=32, max_num_batched_tokens=8192, max_model_len=4096)
    assert (config.queue_length, config.unstarted_tokens, config.light_tokens) == (128, 8192, 1024)
    assert config.queue_tokens(0.0) == 4 * 8192
    assert config.queue_tokens(5000.0) == 150_000
    # rows: places with one key and with several, rows for all keys, below how many a key is light
    table = {1: (3, 2, 1, 1), 2: (4, 3, 1, 1), 3: (5, 4, 2, 1), 4: (6, 5, 3, 1), 8: (10, 9, 7, 1), 15: (18, 16, 14, 1)}
    table |= {16: (20, 18, 14, 2), 32: (40, 36, 28, 4), 256: (320, 288, 224, 32)}
    for rows, expected in table.items():
        config = AdmissionConfig(max_num_seqs=rows, max_num_batched_tokens=64, max_model_len=100)
        places = [Gate.of(config, shared=shared).places for shared in (False, True)]
        assert (*places, config.common_rows, config.light_rows) == expected
        assert config.common_rows < places[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", 0),
        ("max_model_len", 0),
        ("max_num_queued_reqs", -1),
        ("max_num_queued_tokens", -1),
        ("ttft_target_s", 0.0),
        ("ttft_target_s", float("nan")),
    ],
)
def test_sizes_that_cannot_be_are_refused(name: str, value: float) -> None:
    sizes: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 100, name: value}
    with pytest.raises(ConfigError, match=name):
        AdmissionConfig(**sizes)


def test_the_flag_of_the_ttft_target_bounds_what_waits() -> None:
    server = read_options(["--ttft-target-s", "2"], {}).server
    assert admission_sizes(engine_info(), server).queue_tokens(5000.0) == 10_000
    assert admission_sizes(engine_info(), ServerConfig()).queue_tokens(5000.0) == 150_000
    with pytest.raises(ConfigError, match="ttft_target_s is 0"):
        read_options(["--ttft-target-s=0"], {})
