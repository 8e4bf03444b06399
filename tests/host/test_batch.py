"""pack and unpack: a small step, number by number."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from jaxpaged.batch import StepLayout, pack, unpack
from jaxpaged.buckets import Bucket
from jaxpaged.request import MAX_BIASES, Request, SamplingParams
from jaxpaged.scheduler import RowPlan, StepPlan

LAYOUT = StepLayout(bucket=Bucket(tokens=8, rows=4), table_width=3, num_groups=2)


def request(name: str, tokens: list[int], prompt: int, tables: list[list[int]], **options: object) -> Request:
    params = SamplingParams(**options)  # pyright: ignore[reportArgumentType]
    made = Request(
        id=name,
        prompt=tuple(tokens[:prompt]),
        params=params,
        seed=2**32 - 1,
        max_tokens=9,
        tokens=tokens,
        stop_ids=frozenset([6, *params.stop_ids]),
    )
    made.block_ids = [array("i", table) for table in tables]
    return made


def plan(*rows: tuple[Request, int, int], layout: StepLayout = LAYOUT) -> StepPlan:
    return StepPlan(
        rows=tuple(RowPlan(request=r, start=s, count=c, samples=s + c == r.num_tokens) for r, s, c in rows),
        bucket=layout.bucket,
    )


def two_rows(**options: object) -> StepPlan:
    decoding = request("a", [5, 6, 7, 8], 3, [[4, 2], [9, 1]], temperature=0.0, **options)
    prompt = request("b", [1, 2, 3, 4, 5], 5, [[3, 1, 5], [2, 6, 3]], top_k=3, top_p=0.5, min_p=0.25, logprobs=2)
    return plan((decoding, 3, 1), (prompt, 1, 3))


def test_two_rows() -> None:
    inputs = pack(two_rows(), LAYOUT, max_model_len=6, vocab_size=10)
    assert (inputs.ints.dtype, inputs.floats.dtype) == (np.int32, np.float32)
    assert (inputs.ints.shape, inputs.floats.shape) == ((8 + 5 + 6 * 4 + 2 * 4 * 3,), (6 * 4,))
    fields = unpack(inputs.ints, inputs.floats, LAYOUT)
    assert fields.token_ids.tolist() == [8, 2, 3, 4, 0, 0, 0, 0]
    assert fields.cu_q_lens.tolist() == [0, 1, 4, 4, 4]
    assert fields.kv_lens.tolist() == [4, 4, 0, 0]
    assert fields.sample_at.tolist() == [0, 3, 0, 0]
    assert [table.tolist() for table in fields.block_tables] == [
        [[4, 2, 0], [3, 1, 5], [0, 0, 0], [0, 0, 0]],
        [[9, 1, 0], [2, 6, 3], [0, 0, 0], [0, 0, 0]],
    ]
    assert fields.top_k.tolist() == [0, 3, 0, 0]
    assert fields.seeds.tolist() == [-1, -1, 0, 0]  # 2**32 - 1 as int32 bits
    assert fields.num_logprobs.tolist() == [-1, 2, -1, -1]
    assert fields.prompt_lens.tolist() == [3, 5, 0, 0]
    assert fields.temperature.tolist() == [0, 1, 0, 0]
    assert fields.top_p.tolist() == [1, 0.5, 1, 1]
    assert fields.min_p.tolist() == [0, 0.25, 0, 0]
    assert fields.repetition.tolist() == [1, 1, 1, 1]
    assert inputs.history is None
    assert inputs.bias_ids is None
    assert inputs.bias_values is None


def test_penalties_bring_the_history() -> None:
    options = {"presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.25}
    inputs = pack(two_rows(**options), LAYOUT, max_model_len=6, vocab_size=10)
    fields = unpack(inputs.ints, inputs.floats, LAYOUT)
    assert fields.presence.tolist() == [0.5, 0, 0, 0]
    assert fields.frequency.tolist() == [-0.5, 0, 0, 0]
    assert fields.repetition.tolist() == [1.25, 1, 1, 1]
    assert inputs.history is not None
    assert inputs.history.tolist() == [[5, 6, 7, 8, -1, -1], [-1] * 6, [-1] * 6, [-1] * 6]


def test_biases_and_stop_ids_under_min_tokens() -> None:
    options = {"logit_bias": {2: 1.5, 6: 3.0}, "stop_token_ids": [4], "min_tokens": 2}
    inputs = pack(two_rows(**options), LAYOUT, max_model_len=6, vocab_size=10)
    assert inputs.bias_ids is not None
    assert inputs.bias_values is not None
    assert inputs.bias_ids.shape == inputs.bias_values.shape == (4, MAX_BIASES)
    assert inputs.bias_ids[0, :4].tolist() == [2, 6, 4, -1]
    assert inputs.bias_values[0, :4].tolist() == [1.5, -np.inf, -np.inf, 0]  # a barred stop id stays barred
    assert (inputs.bias_ids[1:] == -1).all()
    enough = pack(two_rows(stop_token_ids=[4], min_tokens=1), LAYOUT, max_model_len=6, vocab_size=10)
    assert enough.bias_ids is None  # one token is out already


def test_a_request_that_ended_reads_the_null_block() -> None:
    step = two_rows()
    step.rows[0].request.block_ids = []
    fields = unpack(*_vectors(step), LAYOUT)
    assert fields.block_tables[0].tolist() == [[0, 0, 0], [3, 1, 5], [0, 0, 0], [0, 0, 0]]


def _vectors(step: StepPlan) -> tuple[np.ndarray, np.ndarray]:
    inputs = pack(step, LAYOUT, max_model_len=6, vocab_size=10)
    return inputs.ints, inputs.floats


def test_bounds_are_asserted() -> None:
    for options, told in (
        ({"max_model_len": 3, "vocab_size": 10}, "4 tokens, at most 3"),
        ({"max_model_len": 6, "vocab_size": 8}, "token id 8 is not below 8"),
    ):
        with pytest.raises(AssertionError, match=told):
            pack(two_rows(), LAYOUT, **options)
    negative = request("n", [1, -1], 2, [[1], [1]])
    with pytest.raises(AssertionError, match="token id -1 is negative"):
        pack(plan((negative, 0, 2)), LAYOUT, max_model_len=6, vocab_size=10)
    wide = request("w", [1, 1], 2, [[1, 2, 3, 4], [1]])
    with pytest.raises(AssertionError, match="4 blocks, at most 3"):
        pack(plan((wide, 0, 2)), LAYOUT, max_model_len=6, vocab_size=10)
    step = two_rows()
    with pytest.raises(AssertionError, match="come first"):
        pack(StepPlan(rows=step.rows[::-1], bucket=step.bucket), LAYOUT, max_model_len=6, vocab_size=10)


def test_a_full_bucket_has_no_padding() -> None:
    layout = StepLayout(bucket=Bucket(tokens=2, rows=2), table_width=1, num_groups=1)
    rows = [request(name, [3, 4], 1, [[block]]) for name, block in (("a", 1), ("b", 2))]
    inputs = pack(plan(*((row, 1, 1) for row in rows), layout=layout), layout, max_model_len=6, vocab_size=10)
    fields = unpack(inputs.ints, inputs.floats, layout)
    assert fields.token_ids.tolist() == [4, 4]
    assert fields.cu_q_lens.tolist() == [0, 1, 2]
    assert fields.sample_at.tolist() == [0, 1]
    assert fields.block_tables[0].tolist() == [[1], [2]]
