"""Every two values of two things a request can ask, through a whole engine: each token against the oracle.

Small pools, so that requests are preempted; common beginnings, so that prefixes are cached; with and without guesses.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from all_pairs import all_pairs
from drafters import OracleDrafter, eager_speculator
from logits_recorder import Logits, recorded_logits
from sampler_oracle import Asked, choose, logprobs

from jaxpaged.config import CHUNK_ALIGN, EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.outputs import OutputKind
from jaxpaged.request import CompletionOutput, Request, RequestOutput
from jaxpaged.sampling_params import SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.speculation.drafter import Drafter
from jaxpaged.speculation.speculator import Speculator
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.tiny.corpus import read_corpus

pytestmark = pytest.mark.long

Work = tuple[tuple[int, ...], SamplingParams]
BLOCK, BLOCKS, ROWS, LONGEST, ANSWER = 16, 25, 8, 128, 20
TAGS = {"reasoning_start_str": " the", "reasoning_end_str": " of a"}
LETTERS = "abcdefghijklmnopqrstuvwxyz ,.()=_\n"
FORM = StructuredOutputsParams(regex=r"[a-z ,.()=_\n]*")
"""A form that each token has or has not, whatever stands before it, so that the oracle needs no grammar."""
OPTIONS: Mapping[str, Sequence[Any]] = {
    "n": (1, 3),
    "temperature": (0.0, 0.8),
    "top_k": (0, 20),
    "top_p": (1.0, 0.9),
    "min_p": (0.0, 0.05),
    "seed": (3, 2**40),
    "presence_penalty": (0.0, 0.6),
    "frequency_penalty": (0.0, 0.4),
    "repetition_penalty": (1.0, 1.2),
    "logit_bias": (None, "some"),
    "allowed_token_ids": (None, "half"),
    "bad_words": (None, (" the", "and", "of a", " to", "in the", "self.")),
    "min_tokens": (0, 5),
    "stop": (None, (". ",)),
    "thinking_token_budget": (None, 1),
    "logprobs": (None, 0, 3, 50, -1),
    "logprob_token_ids": (None, (5, 900, 17)),
    "prompt_logprobs": (None, 2),
    "skip_reading_prefix_cache": (None, True),
    "structured_outputs": (None, FORM),
}


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            dtype="float32",
            max_model_len=LONGEST,
            max_num_seqs=ROWS,
            max_num_batched_tokens=128,
            num_gpu_blocks_override=BLOCKS,
            block_size=BLOCK,
            compile_cache="off",
            max_logprobs=-1,
            reasoning_config=TAGS,
        )
    )


def new_scheduler(engine: LLMEngine, speculator: Speculator | None) -> None:
    config = SchedulerConfig(
        max_rows=ROWS, max_step_tokens=128, max_model_len=LONGEST, chunk_align=CHUNK_ALIGN, max_preemptions=4
    )
    pool = KVPoolSpec(block_size=BLOCK, num_blocks=BLOCKS)
    engine.scheduler = Scheduler(config, pool, engine.buckets, speculator=speculator)


def work_of(engine: LLMEngine, rng: random.Random) -> list[Work]:
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:20_000])
    vocab = engine.model_config.vocab
    work: list[Work] = []
    for options in all_pairs(OPTIONS, seed=1) + all_pairs(OPTIONS, seed=2):
        chosen = dict(options)
        if chosen["logit_bias"]:
            chosen["logit_bias"] = {token: rng.choice([-100.0, -2.0, 2.0]) for token in rng.sample(range(vocab), 40)}
        if chosen["allowed_token_ids"]:
            chosen["allowed_token_ids"] = rng.sample(range(vocab), vocab // 2)
        if chosen["logprob_token_ids"]:
            chosen["logprobs"] = None
        start = rng.randrange(len(text) - 80)
        prompt = text[:32] if rng.random() < 0.75 else []  # a beginning that others have as well
        params = SamplingParams(max_tokens=ANSWER, **chosen)
        work.append(((*prompt, *text[start : start + rng.randint(1, 40)]), params))
    return work


def run(engine: LLMEngine, work: Sequence[Work], at_once: int) -> tuple[list[RequestOutput], Logits]:
    coming = [(f"r{i}", *one) for i, one in enumerate(work)][::-1]
    done: dict[str, RequestOutput] = {}
    with recorded_logits(engine) as seen:
        while len(done) < len(work):
            while coming and len(work) - len(coming) - len(done) < at_once:
                name, prompt, params = coming.pop()
                engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY, request_id=name)
            done |= {output.request_id: output for output in engine.step()}
    engine.scheduler.check()
    return [done[f"r{i}"] for i in range(len(work))], seen


class Reader:
    """What requests ask of the sampler, in the oracle's words."""

    def __init__(self, engine: LLMEngine) -> None:
        self._tokenizer = engine.tokenizer
        self._stop_ids = frozenset(engine.tokenizer.eos_ids)
        spelled = [engine.tokenizer.spell(token) or b"" for token in range(engine.model_config.vocab)]
        letters = set(LETTERS.encode())
        fits = [bool(text) and letters.issuperset(text) for text in spelled]
        self._has_form = np.array(fits) & ~np.isin(range(len(fits)), list(engine.tokenizer.special_ids))
        self._has_form[list(self._stop_ids)] = True

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def asked(self, params: SamplingParams, prompt: Sequence[int], place: int) -> Asked:
        """By the answer at this place among the request's."""
        words: list[tuple[int, ...]] = []
        for word in params.bad_words or ():
            alone, within = self.encode(word.lstrip()), self.encode(f" {word.lstrip()}")
            words += [alone, within] if len(alone) == len(within) and alone[0] != within[0] else [alone]
        return Asked(
            params=params,
            prompt=prompt,
            seed=((params.seed or 0) + place) & 0xFFFFFFFF,
            stop_ids=self._stop_ids,
            bad_words=words,
            think=(self.encode(TAGS["reasoning_start_str"]), self.encode(TAGS["reasoning_end_str"])),
            form=self._has_form if params.structured_outputs else None,
        )


def test_pairs_of_what_can_be_asked_equal_the_oracle(engine: LLMEngine) -> None:
    work = work_of(engine, random.Random(11))
    new_scheduler(engine, None)
    outputs = checked(engine, work, at_once=len(work))
    assert engine.scheduler.num_preemptions > 0
    assert engine.scheduler.num_cached_tokens > 0
    answers = {
        f"r{i}/{place}" if place else f"r{i}": said.token_ids
        for i, output in enumerate(outputs)
        for place, said in enumerate(output.outputs)
    }
    rng, vocab = random.Random(5), engine.model_config.vocab

    def guessing(request: Request) -> Drafter:
        return OracleDrafter(request, answers[request.id], length=3, share=0.7, vocab=vocab, rng=rng)

    speculator = eager_speculator(guessing, most=3)
    new_scheduler(engine, speculator)
    checked(engine, work, at_once=2)  # guesses take the rows that are left
    assert speculator.counts.draft_tokens > 1.2 * speculator.counts.accepted_tokens > 100
    assert engine.metrics.compiles_after_ready == 0


def checked(engine: LLMEngine, work: Sequence[Work], *, at_once: int) -> list[RequestOutput]:
    """What the engine answers, each token and logprob of it compared with the oracle's."""
    outputs, seen = run(engine, work, at_once)
    reader = Reader(engine)
    places = unsure = 0
    for i, ((prompt, params), output) in enumerate(zip(work, outputs, strict=True)):
        assert len(output.outputs) == params.n
        for place, said in enumerate(output.outputs):
            asked = reader.asked(params, prompt, place)
            name = f"r{i}" if place == 0 else f"r{i}/{place}"
            for at, token in enumerate(said.token_ids):
                logits = seen[name, len(prompt) + at]
                expected = choose(logits, said.token_ids[:at], asked)
                places += 1
                unsure += not expected.sure
                if expected.sure:
                    assert token == expected.token, (params, place, at)
                check_logprobs(said, at, logits)
            if said.finish_reason == "error":
                end = len(said.token_ids)
                assert choose(seen[name, len(prompt) + end], said.token_ids, asked).token == -1
    assert places > 10 * len(work)
    assert unsure < 0.03 * places
    return outputs


def check_logprobs(said: CompletionOutput, at: int, logits: np.ndarray) -> None:
    if said.logprobs is None:
        return
    own, told = logprobs(logits), said.logprobs[at]
    assert said.token_ids[at] in told
    for other, one in told.items():
        assert abs(one.logprob - own[other]) < 1e-4
        before = (logits > logits[other]).sum() + (logits[:other] == logits[other]).sum()
        assert one.rank in (None, 1 + before)
