"""Packer and unpack: a small step, number by number."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from jaxpaged.batch import COPIES, Packer, StepFields, StepInputs, StepLayout, unpack
from jaxpaged.buckets import Bucket
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import PENDING, Request
from jaxpaged.sampling_params import MAX_BIASES, SamplingParams

LAYOUT = StepLayout(bucket=Bucket(tokens=8, rows=4), table_width=3, num_groups=2)
SEATS = 5


def packer(*, layout: StepLayout = LAYOUT, max_model_len: int = 6, vocab_size: int = 10) -> Packer:
    return Packer(
        num_seats=SEATS,
        table_width=layout.table_width,
        groups=range(layout.num_groups),
        max_model_len=max_model_len,
        vocab_size=vocab_size,
    )


def fields_of(inputs: StepInputs, layout: StepLayout = LAYOUT) -> StepFields:
    return unpack(inputs.ints, layout, lambda bits: bits.view(np.float32))


def request(
    name: str, tokens: list[int], prompt: int, tables: list[list[int]], seat: int = 0, **options: Any
) -> Request:
    params = SamplingParams(**options)
    made = Request(
        id=name,
        prompt=tuple(tokens[:prompt]),
        params=params,
        seed=2**32 - 1,
        max_tokens=9,
        tokens=tokens,
        seat=seat,
        stop_ids=frozenset([6, *params.stop_ids]),
    )
    made.block_ids, made.table_starts = [array("i", table) for table in tables], [0] * len(tables)
    return made


def plan(*rows: tuple[Request, int, int], layout: StepLayout = LAYOUT) -> StepPlan:
    return StepPlan(
        rows=tuple(RowPlan(request=r, start=s, length=c, samples=s + c == r.num_tokens) for r, s, c in rows),
        bucket=layout.bucket,
    )


def two_rows(**options: Any) -> StepPlan:
    decoding = request("a", [5, 6, 7, 8], 3, [[4, 2], [9, 1]], temperature=0.0, **options)
    tables = [[3, 1, 5], [2, 6, 3]]
    prompt = request("b", [1, 2, 3, 4, 5], 5, tables, seat=3, top_k=3, top_p=0.5, min_p=0.25, logprobs=2)
    return plan((decoding, 3, 1), (prompt, 1, 3))


def test_two_rows() -> None:
    inputs = packer().pack(two_rows(), LAYOUT)
    assert inputs.ints.dtype == np.int32
    assert inputs.ints.shape == (8 + 5 + 14 * 4 + 2 * 4 * 3,)
    fields = fields_of(inputs)
    assert fields.token_ids.tolist() == [8, 2, 3, 4, 0, 0, 0, 0]
    assert fields.cu_q_lens.tolist() == [0, 1, 4, 4, 4]
    assert fields.kv_lens.tolist() == [4, 4, 0, 0]
    assert fields.seats.tolist() == [0, 3, SEATS, SEATS]
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
    inputs = packer().pack(two_rows(**options), LAYOUT)
    fields = fields_of(inputs)
    assert fields.presence.tolist() == [0.5, 0, 0, 0]
    assert fields.frequency.tolist() == [-0.5, 0, 0, 0]
    assert fields.repetition.tolist() == [1.25, 1, 1, 1]
    assert inputs.history is not None
    assert inputs.history.tolist() == [[5, 6, 7, 8, -1, -1], [-1] * 6, [-1] * 6, [-1] * 6]


def test_biases() -> None:
    inputs = packer().pack(two_rows(logit_bias={2: 1.5, 6: 3.0}), LAYOUT)
    assert inputs.bias_ids is not None
    assert inputs.bias_values is not None
    assert inputs.bias_ids.shape == inputs.bias_values.shape == (4, MAX_BIASES)
    assert inputs.bias_ids[0, :3].tolist() == [2, 6, -1]
    assert inputs.bias_values[0, :3].tolist() == [1.5, 3.0, 0]
    assert (inputs.bias_ids[1:] == -1).all()


def test_a_request_that_ended_reads_the_null_block() -> None:
    step = two_rows()
    ended = step.rows[0].request
    ended.block_ids, ended.seat = [], -1
    fields = fields_of(packer().pack(step, LAYOUT))
    assert fields.block_tables[0].tolist() == [[0, 0, 0], [3, 1, 5], [0, 0, 0], [0, 0, 0]]
    assert fields.seats.tolist() == [SEATS, 3, SEATS, SEATS]


def test_a_token_in_flight_is_left_to_the_device() -> None:
    waiting = request("a", [5, PENDING], 1, [[4], [9]], seat=2, presence_penalty=1.0)
    prompt = request("b", [1, 2, 3], 3, [[3], [2]], seat=1)
    inputs = packer().pack(plan((waiting, 1, 1), (prompt, 0, 3)), LAYOUT)
    fields = fields_of(inputs)
    assert fields.token_ids.tolist() == [PENDING, 1, 2, 3, 0, 0, 0, 0]
    assert fields.seats.tolist() == [2, 1, SEATS, SEATS]
    assert inputs.history is not None
    assert inputs.history[0].tolist() == [5, -1, -1, -1, -1, -1]


def test_what_a_seat_keeps_follows_its_requests() -> None:
    kept = packer()
    first = request("a", [1, 2, 3, 4], 1, [[4], [9]], seat=2, top_k=7)
    kept.pack(plan((first, 0, 1)), LAYOUT)
    first.block_ids[0].append(6)
    first.block_ids[1].append(8)
    first.table_edits += 1
    fields = fields_of(kept.pack(plan((first, 1, 1)), LAYOUT))
    assert [table[0].tolist() for table in fields.block_tables] == [[4, 6, 0], [9, 8, 0]]
    assert fields.top_k.tolist() == [7, 0, 0, 0]
    # the first block of the second group falls behind a window
    first.block_ids[1][0], first.table_starts[1] = 0, 1
    first.table_edits += 1
    fields = fields_of(kept.pack(plan((first, 2, 1)), LAYOUT))
    assert [table[0].tolist() for table in fields.block_tables] == [[4, 6, 0], [0, 8, 0]]
    # preempted and admitted again at the same seat, with other blocks
    first.block_ids, first.table_starts = [array("i", [5]), array("i", [3])], [0, 0]
    fields = fields_of(kept.pack(plan((first, 0, 1)), LAYOUT))
    assert [table[0].tolist() for table in fields.block_tables] == [[5, 0, 0], [3, 0, 0]]
    second = request("b", [1, 2], 1, [[1], [1]], seat=2, top_p=0.5)
    fields = fields_of(kept.pack(plan((second, 0, 1)), LAYOUT))
    assert [table[0].tolist() for table in fields.block_tables] == [[1, 0, 0], [1, 0, 0]]
    assert (fields.top_k.tolist(), fields.top_p.tolist()) == ([0, 0, 0, 0], [0.5, 1, 1, 1])


def test_bounds_are_asserted() -> None:
    for small, told in (
        (packer(max_model_len=3), "4 tokens, at most 3"),
        (packer(vocab_size=8), "token id 8 is not below 8"),
    ):
        with pytest.raises(AssertionError, match=told):
            small.pack(two_rows(), LAYOUT)
    negative = request("n", [1, -2], 2, [[1], [1]])
    with pytest.raises(AssertionError, match="token id -2 is negative"):
        packer().pack(plan((negative, 0, 2)), LAYOUT)
    unknown = request("n", [1, PENDING], 2, [[1], [1]])
    with pytest.raises(AssertionError, match="a chunk holds a token that is not drawn yet"):
        packer().pack(plan((unknown, 0, 2)), LAYOUT)
    wide = request("w", [1, 1], 2, [[1, 2, 3, 4], [1]])
    with pytest.raises(AssertionError, match="4 blocks, at most 3"):
        packer().pack(plan((wide, 0, 2)), LAYOUT)
    step = two_rows()
    with pytest.raises(AssertionError, match="come first"):
        packer().pack(StepPlan(rows=step.rows[::-1], bucket=step.bucket), LAYOUT)


def test_a_full_bucket_has_no_padding() -> None:
    layout = StepLayout(bucket=Bucket(tokens=2, rows=2), table_width=1, num_groups=1)
    rows = [request(name, [3, 4], 1, [[block]], seat=block) for name, block in (("a", 1), ("b", 2))]
    fields = fields_of(packer(layout=layout).pack(plan(*((row, 1, 1) for row in rows), layout=layout), layout), layout)
    assert fields.token_ids.tolist() == [4, 4]
    assert fields.cu_q_lens.tolist() == [0, 1, 2]
    assert fields.seats.tolist() == [1, 2]
    assert fields.block_tables[0].tolist() == [[1], [2]]


def test_a_follower_has_a_row_without_tokens_that_samples_where_its_leader_does() -> None:
    decoding = request("a", [5, 6, 7, 8], 3, [[4, 2], [9, 1]])
    leader = request("b", [1, 2, 3, 4, 5], 5, [[3, 1, 5], [2, 6, 3]], seat=3)
    follower = request("c", [1, 2, 3, 4, 5], 5, [], seat=4, top_k=3)
    follower.leader = leader
    step = plan((decoding, 3, 1), (leader, 1, 4), (follower, 5, 0))
    fields = fields_of(packer().pack(step, LAYOUT))
    assert fields.cu_q_lens.tolist() == [0, 1, 5, 5, 5]
    assert fields.kv_lens.tolist() == [4, 5, 0, 0]  # padding, to attention
    assert fields.positions.tolist() == [4, 5, 5, 0]
    assert fields.sampled_at.tolist() == [0, 4, 4, 0]
    assert fields.seats.tolist() == [0, 3, 4, SEATS]
    assert fields.top_k.tolist() == [0, 0, 3, 0]
    assert fields.block_tables[0][2].tolist() == [0, 0, 0]
    leader.block_ids, leader.seat = [], -1  # it ended since the plan
    assert fields_of(packer().pack(step, LAYOUT)).sampled_at.tolist() == [0, 4, 4, 0]
    follower.leader = None
    assert fields_of(packer().pack(step, LAYOUT)).sampled_at.tolist() == [0, 4, 0, 0]
    with pytest.raises(AssertionError, match="rows without come last"):
        packer().pack(plan((follower, 5, 0), (leader, 1, 4)), LAYOUT)


def test_copies_go_a_few_at_a_time() -> None:
    pairs = tuple((2 * i + 1, 2 * i + 2) for i in range(COPIES + 1))
    step = two_rows()
    first, second = packer().pack(StepPlan(rows=step.rows, bucket=step.bucket, copies=pairs), LAYOUT).copies
    assert first.T.tolist() == [list(pair) for pair in pairs[:COPIES]]
    assert second.T.tolist() == [list(pairs[COPIES]), *[[0, 0]] * (COPIES - 1)]
    assert packer().pack(step, LAYOUT).copies == ()
