"""The answers to one prompt: which are told, with what, and when they are let go."""

from __future__ import annotations

from jaxpaged.answers import Answers, params_of_answers
from jaxpaged.outputs import Completion, OutputKind
from jaxpaged.request import FinishReason, Logprob, Request, SamplingParams, TokenEvent
from jaxpaged.submissions import Submissions
from jaxpaged.tokenize import NoTokenizer


def answers_of(params: SamplingParams, name: str = "x", *, kind: OutputKind = OutputKind.FINAL_ONLY) -> Answers:
    of_each = params_of_answers(params)
    names = [name, *(f"{name}/{i}" for i in range(1, len(of_each)))]
    requests = [
        Request(id=name, prompt=(1,), params=of_one, seed=0, max_tokens=4)
        for name, of_one in zip(names, of_each, strict=True)
    ]
    completions = [
        Completion(request, NoTokenizer(), prompt=None, kind=kind, clock=lambda: 0.0) for request in requests
    ]
    return Answers(completions, params)


def last(name: str, token: int, logprob: float, finish: FinishReason = FinishReason.LENGTH) -> TokenEvent:
    return TokenEvent(name, token, finish, logprobs={token: Logprob(logprob=logprob), 9: Logprob(logprob=-3.0)})


def test_logprobs_of_named_tokens_are_told_of_the_best_answers() -> None:
    answers = answers_of(SamplingParams(n=1, best_of=2, logprob_token_ids=[9], detokenize=False))
    answers.push(last("x", 5, -2.0))
    answers.push(last("x/1", 6, -1.0))
    told = answers.output("x")
    assert told is not None
    (best,) = told.outputs
    assert (best.token_ids, best.cumulative_logprob) == ((6,), -1.0)
    assert best.logprobs is not None
    assert best.logprobs[0][9].logprob == -3.0


def test_logprobs_by_which_the_best_are_found_are_not_told_unasked() -> None:
    answers = answers_of(SamplingParams(n=1, best_of=2, detokenize=False))
    answers.push(last("x", 5, -1.0, FinishReason.REPETITION))
    answers.push(last("x/1", 6, -2.0))
    told = answers.output("x")
    assert told is not None
    (best,) = told.outputs
    assert (best.token_ids, best.logprobs, best.cumulative_logprob) == ((6,), None, None), "circles are not the best"


def test_the_id_of_any_answer_lets_all_of_them_go() -> None:
    submissions = Submissions()
    submissions.add(answers_of(SamplingParams(n=3, detokenize=False)))
    assert "x/2" in submissions
    assert submissions.leave("x/1") == ("x", "x/1", "x/2")
    assert "x" not in submissions
    assert submissions.leave("x") == ("x",)
    assert submissions.outputs([last("x/2", 5, -1.0)], finish=lambda _: None) == []


def test_an_answer_that_has_ended_is_known_to() -> None:
    answers = answers_of(SamplingParams(n=2, detokenize=False), kind=OutputKind.CUMULATIVE)
    assert not answers.has_ended("x")
    answers.push(last("x", 5, -1.0))
    assert answers.has_ended("x")
    assert not answers.has_ended("x/1")
