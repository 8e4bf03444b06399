"""Answers of a given form through the whole engine: valid whatever the model likes, and the same however they came."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from drafters import AnyPrice, OracleDrafter, eager_speculator
from jsonschema.validators import validator_for
from schema_table import table

from jaxpaged.config import CHUNK_ALIGN
from jaxpaged.errors import GrammarError, ParameterError
from jaxpaged.llm import LLM
from jaxpaged.request import Request, RequestOutput, SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.speculation.config import SpeculationConfig
from jaxpaged.speculation.speculator import Speculator
from jaxpaged.structured.grammars import Grammars
from jaxpaged.structured.params import StructuredOutputsParams

BLOCK = 16
BLOCKS = 257
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
PROMPTS = ["The list of modules is", "def f(x):\n", "A person:", "In Python, a class", "import json"]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    made = LLM(
        dtype="float32",
        max_model_len=512,
        max_num_seqs=16,
        max_num_batched_tokens=256,
        num_gpu_blocks_override=BLOCKS,
        block_size=BLOCK,
        compile_cache="off",
    )
    yield made
    assert made.engine.metrics.compiles_after_ready == 0


def asking(
    max_tokens: int = 200, *, temperature: float = 1.0, seed: int = 1, options: Any = (), **form: Any
) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        structured_outputs=StructuredOutputsParams(**form),
        **dict(options),
    )


def generate(llm: LLM, prompts: Sequence[str], params: Sequence[SamplingParams]) -> list[RequestOutput]:
    return llm.generate(prompts, params, use_tqdm=False)


def tokens(outputs: Sequence[RequestOutput]) -> list[tuple[tuple[int, ...], str | None]]:
    return [(output.outputs[0].token_ids, output.outputs[0].finish_reason) for output in outputs]


def renew(llm: LLM, *, blocks: int, rows: int = 16, speculator: Speculator | None = None) -> None:
    """A fresh scheduler over the same programs and pool."""
    engine = llm.engine
    engine.steps.in_flight.clear()
    config = SchedulerConfig(max_rows=rows, max_step_tokens=256, max_model_len=512, chunk_align=CHUNK_ALIGN)
    engine.scheduler = Scheduler(
        config, KVPoolSpec(block_size=BLOCK, num_blocks=blocks), engine.buckets, speculator=speculator
    )


def test_answers_of_300_schemas_are_valid_or_the_keyword_is_named(llm: LLM) -> None:
    cases = table()
    assert len(cases) >= 300
    held = [case.schema for case in cases if case.refused is None]
    params = [
        asking(json=schema, seed=i, temperature=0.7, disable_any_whitespace=i % 5 > 0) for i, schema in enumerate(held)
    ]
    ended = 0
    for schema, output in zip(held, generate(llm, [PROMPTS[i % 5] for i in range(len(held))], params), strict=True):
        said = output.outputs[0]
        assert output.error is None
        if said.finish_reason == "stop":
            ended += 1
            kind = validator_for(schema, default=jsonschema.Draft202012Validator)
            kind(schema).validate(json.loads(said.text))
    assert ended > 0.7 * len(held)  # others went on to max_tokens
    for case in cases:
        if case.refused is not None:
            with pytest.raises(GrammarError) as caught:
                generate(llm, ["x"], [asking(json=case.schema)])
            assert caught.value.name == case.refused


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"[A-Z][a-z]{2,8} \d{4}"}, r"[A-Z][a-z]{2,8} \d{4}"),
        ({"choice": ["positive", "negative", "neither"]}, "positive|negative|neither"),
        ({"grammar": 'root ::= "(" [0-9]+ ")" | "[" root "]"'}, r"\[*\(\d+\)\]*"),
        ({"grammar": 'start: "x" | "(" start ")"'}, r"\(*x\)*"),
        (
            {
                "structural_tag": {
                    "format": {
                        "type": "tag",
                        "begin": "<n>",
                        "content": {"type": "regex", "pattern": "\\d"},
                        "end": "</n>",
                    }
                }
            },
            r"<n>\d</n>",
        ),
    ],
    ids=str,
)
def test_other_forms(llm: LLM, form: dict[str, Any], pattern: str) -> None:
    params = [asking(40, seed=i, **form) for i in range(12)]
    ended = [output.outputs[0] for output in generate(llm, ["It is"] * 12, params)]
    ended = [said for said in ended if said.finish_reason == "stop"]
    assert ended
    for said in ended:
        assert re.fullmatch(pattern, said.text), said.text


def mixed(count: int = 24) -> tuple[list[str], list[SamplingParams]]:
    """Forms of several kinds beside free text, greedy and seeded, with options of all sorts."""
    rng = random.Random(9)
    free = SamplingParams(max_tokens=30, temperature=0.0)
    params: list[SamplingParams] = []
    for i in range(count):
        options = rng.choice(
            [(), {"logprobs": 2}, {"presence_penalty": 0.5, "repetition_penalty": 1.1}, {"top_k": 20}, {"min_p": 0.05}]
        )
        greedy = 0.0 if i % 3 == 0 else 0.9
        params.append(
            [
                asking(60, temperature=greedy, seed=i, json=PERSON, options=options),
                asking(20, temperature=greedy, seed=i, choice=["red", "green", "blue"], options=options),
                asking(40, temperature=greedy, seed=i, regex=r"(\d+, )*\d+", options=options),
                free,
            ][i % 4]
        )
    return [PROMPTS[i % 5] for i in range(count)], params


@pytest.fixture(scope="module")
def alone(llm: LLM) -> list[tuple[tuple[int, ...], str | None]]:
    """Each by itself, every step committed before the next one is planned."""
    engine, config = llm.engine, llm.engine.config
    engine.config = replace(config, async_scheduling=False)
    prompts, params = mixed()
    found = [tokens(generate(llm, [one], [of_one]))[0] for one, of_one in zip(prompts, params, strict=True)]
    engine.config = config
    return found


@pytest.mark.parametrize("overlapped", [False, True])
def test_the_same_beside_others_whenever_tokens_are_drawn(llm: LLM, alone: Any, overlapped: bool) -> None:
    engine, config = llm.engine, llm.engine.config
    engine.config = replace(config, async_scheduling=overlapped)
    assert tokens(generate(llm, *mixed())) == alone
    engine.config = config


def test_the_same_after_preemptions(llm: LLM, alone: Any) -> None:
    renew(llm, blocks=12, rows=8)
    assert tokens(generate(llm, *mixed())) == alone
    assert llm.engine.scheduler.num_preemptions > 0
    renew(llm, blocks=BLOCKS)


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_the_same_with_guesses(llm: LLM, alone: Any, share: float) -> None:
    """Right ones and wrong ones, which the grammars may not even allow."""
    rng = random.Random(4)
    prompts, params = mixed()
    answers = {
        tuple(llm.engine.tokenizer.encode(prompt)): said for prompt, (said, _) in zip(prompts, alone, strict=True)
    }

    def drafter(request: Request) -> OracleDrafter:
        truth = answers[request.prompt]
        return OracleDrafter(request, truth, length=3, share=share, vocab=llm.engine.model_config.vocab, rng=rng)

    speculator = eager_speculator(drafter, most=3)
    renew(llm, blocks=BLOCKS, speculator=speculator)
    assert tokens(generate(llm, prompts, params)) == alone
    assert speculator.counts.draft_tokens > 50
    renew(llm, blocks=BLOCKS)


def test_forced_tokens_are_there_in_one_step(llm: LLM) -> None:
    properties = {f"a_long_name_of_a_property_{i}": {"type": "boolean"} for i in range(4)}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    params = [asking(200, seed=3, json=schema, disable_any_whitespace=True)]
    before = llm.engine.metrics.steps
    plain = tokens(generate(llm, ["x = "], params))
    plain_steps = llm.engine.metrics.steps - before
    config = SpeculationConfig(method="ngram", num_speculative_tokens=8, prompt_lookup_min=64, prompt_lookup_max=64)
    speculator = Speculator(config, costs=AnyPrice())
    renew(llm, blocks=BLOCKS, speculator=speculator)
    before = llm.engine.metrics.steps
    assert tokens(generate(llm, ["x = "], params)) == plain
    assert llm.engine.metrics.steps - before < 0.6 * plain_steps
    assert speculator.counts.accepted_tokens == speculator.counts.draft_tokens > 20  # none of them was wrong
    renew(llm, blocks=BLOCKS)


def test_forks_have_grammars_of_their_own(llm: LLM) -> None:
    params = asking(80, seed=5, json=PERSON, disable_any_whitespace=True, options={"n": 4, "logprobs": 1})
    output = generate(llm, ["A person: "], [params])[0]
    assert len(output.outputs) == 4
    assert len({said.token_ids for said in output.outputs}) > 1
    ended = [said for said in output.outputs if said.finish_reason == "stop"]
    assert ended
    for said in ended:
        jsonschema.validate(json.loads(said.text), PERSON)


def test_a_greedy_answer_is_the_likeliest_of_what_may_come(llm: LLM) -> None:
    output = generate(llm, ["Yes or no:"], [asking(8, temperature=0.0, choice=["yes", "no"], options={"logprobs": 0})])[
        0
    ]
    said = output.outputs[0]
    assert said.text in ("yes", "no")
    assert said.logprobs is not None
    assert len(said.logprobs) == len(said.token_ids)  # of the model's own distribution, the end included


def test_a_grammar_that_fails_ends_its_own_request_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grammars, "check", lambda *_: None)  # as where others have checked it, with another tokenizer
    prompts, params = mixed(8)
    broken = asking(20, grammar="start: <|nobody|>")
    outputs = generate(llm, [*prompts, "x"], [*params, broken])
    assert [output.error for output in outputs[:-1]] == [None] * 8
    assert outputs[-1].outputs[0].finish_reason == "error"
    assert "no grammar can be made of it" in (outputs[-1].error or "")


def test_an_answer_that_is_whole_ends_where_no_end_may_come(llm: LLM) -> None:
    params = asking(50, choice=["yes", "no"], options={"min_tokens": 40})
    said = generate(llm, ["x"], [params])[0].outputs[0]
    assert said.text in ("yes", "no")
    assert said.finish_reason == "stop"


def test_constraints_that_leave_nothing_end_their_request(llm: LLM) -> None:
    (token,) = llm.engine.tokenizer.encode("z")
    outputs = generate(
        llm, ["x", "x"], [asking(9, choice=["yes"], options={"allowed_token_ids": [token]}), asking(9, choice=["no"])]
    )
    assert outputs[0].outputs[0].finish_reason == "error"
    assert "leave no token" in (outputs[0].error or "")
    assert outputs[1].outputs[0].text == "no"


def test_options_as_a_command_line_and_a_file_give_them() -> None:
    as_text = SamplingParams(structured_outputs='{"regex": "a+"}')  # pyright: ignore[reportArgumentType]
    as_object = SamplingParams(structured_outputs={"regex": "a+"})  # pyright: ignore[reportArgumentType]
    assert as_text == as_object == SamplingParams(structured_outputs=StructuredOutputsParams(regex="a+"))
    for wrong in ("[1]", "{", '{"rexeg": "a"}', 5):
        with pytest.raises(ParameterError, match="structured_outputs"):
            SamplingParams(structured_outputs=wrong)  # pyright: ignore[reportArgumentType]
