"""What goes over the wire comes out the same, however it is cut."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpaged_server.engine_process.error_fields import error_of, fields_of
from jaxpaged_server.engine_process.wire import (
    MAX_FRAME,
    Abort,
    Call,
    ErrorFields,
    Finish,
    Frames,
    Item,
    Message,
    Pairs,
    Phase,
    Refused,
    Reply,
    Start,
    Stop,
    Submit,
    Tokens,
    engine_decoder,
    frame,
    front_decoder,
    pairs,
    token_messages,
)

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ContextLengthError, EngineError, JaxPagedError, ParameterError
from jaxpaged.repetition import RepetitionDetectionParams
from jaxpaged.request import Logprob, SamplingParams

PARAMS = SamplingParams(temperature=0.5, stop=["a", "b"], logit_bias={7: -1.5}, seed=2**64 - 1, stop_token_ids=[3])
MORE = SamplingParams(
    n=2,
    best_of=3,
    allowed_token_ids=[1, 2],
    bad_words=["a", "b c"],
    logprob_token_ids=[4, 5],
    thinking_token_budget=0,
    repetition_detection=RepetitionDetectionParams(max_pattern_size=4, min_count=3),
    truncate_prompt_tokens=-1,
    truncation_side="right",
    skip_reading_prefix_cache=True,
    detokenize=False,
    spaces_between_special_tokens=False,
)
TAGS = {"reasoning_start_str": "<a>", "reasoning_end_str": "</a>"}
COMMANDS = [
    Start(EngineConfig(max_model_len=64)),
    Start(EngineConfig(), cache_events=True, block_share=0.01, estimates=True),
    Start(EngineConfig(reasoning_config=TAGS, max_logprobs=-1)),
    Submit(5, [1, 2, 3], PARAMS, "tenant"),
    Submit(6, [1], MORE),
    Submit(5, [1, 2, 3], PARAMS, "tenant", [(6, PARAMS), (7, SamplingParams())]),
    Abort([1, 2**40]),
    Finish(9),
    Call(1, "pool_map"),
    Stop(),
]
ANSWERS = [
    Phase("compiling", 7, 24, 1.5),
    Refused(3, ErrorFields(kind="PromptError", name="prompt", value="[]", limit="it has no token")),
    Tokens([Item(1, 5), Item(2, None, "error", error="not finite"), Item(3, 7, logprobs={7: (-0.25, 1)})]),
    Tokens([Item(1, 5, "repetition", "repetition_detected")]),
    Reply(4, {"a": [1, None, b"\0"]}),
]


@pytest.mark.parametrize("message", COMMANDS, ids=lambda message: type(message).__name__)
def test_commands_come_out_the_same(message: Message) -> None:
    (body,) = Frames().push(frame(message))
    assert engine_decoder().decode(body) == message


@pytest.mark.parametrize("message", ANSWERS, ids=lambda message: type(message).__name__)
def test_answers_come_out_the_same(message: Message) -> None:
    (body,) = Frames().push(frame(message))
    assert front_decoder().decode(body) == message


def test_neither_end_takes_what_is_for_the_other() -> None:
    with pytest.raises(msgspec.ValidationError):
        engine_decoder().decode(frame(ANSWERS[0])[4:])
    with pytest.raises(msgspec.ValidationError):
        front_decoder().decode(frame(COMMANDS[1])[4:])


def test_a_token_takes_few_bytes() -> None:
    tokens = Tokens([Item(1000 + i, 30_000 + i) for i in range(32)])
    assert len(frame(tokens)) / 32 < 24


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_frames_do_not_depend_on_where_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    frames, found = Frames(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.push(stream[start:end])
    assert found == bodies


def test_a_frame_that_is_too_long_is_refused_by_its_header() -> None:
    with pytest.raises(ValueError, match=str(MAX_FRAME + 1)):
        Frames().push((MAX_FRAME + 1).to_bytes(4, "little"))


@pytest.mark.parametrize(
    "error",
    [
        ParameterError(name="top_p", value=1.5, limit="it must be above 0 and at most 1", fix="Use 1"),
        ContextLengthError(name="prompt length", value=9000, limit="at most 4096"),
        ParameterError(name="stop", value="x" * 500, limit="it is too long"),
    ],
)
def test_an_error_says_the_same_on_the_other_side(error: JaxPagedError) -> None:
    other = error_of(fields_of(error))
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert (other.name, other.limit, other.fix) == (error.name, error.limit, error.fix)


def test_a_strange_error_becomes_an_engine_error() -> None:
    error = error_of(fields_of(ZeroDivisionError("division by zero")))
    assert isinstance(error, EngineError)
    assert str(error) == "engine is 'ZeroDivisionError': division by zero"
    assert type(error_of(ErrorFields(kind="annotations", name="a", value="1", limit="b"))) is EngineError


def test_many_logprobs_go_alone() -> None:
    few: Pairs = {7: (-0.5, 1)}
    many: Pairs = dict.fromkeys(range(2000), (-7.0, 3))
    items = [Item(1, 5), Item(2, 7, logprobs=few), Item(3, 9, logprobs=many), Item(4, 9, logprobs=many), Item(5, 6)]
    assert [[item.id for item in message.items] for message in token_messages(items)] == [[1, 2], [3], [4], [5]]
    every: Pairs = dict.fromkeys(range(2**18), (-12.345678901, 2**18))
    assert len(frame(Tokens([Item(1, 5, logprobs=every)]))) < MAX_FRAME // 8


def test_logprobs_keep_logprob_and_rank() -> None:
    assert pairs({3: Logprob(logprob=-0.5, rank=2), 4: Logprob(logprob=-1.0)}) == {3: (-0.5, 2), 4: (-1.0, 0)}
    assert pairs(None) is None
