"""What the results of a step say of one request to the world outside. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping

from jaxpaged.repetition import RepetitionDetectionParams
from jaxpaged.repetition_search import RepetitionSearch
from jaxpaged.request import FinishReason, Logprob, PromptLogprobs, Request, TokenEvent

NO_TOKEN = "the request's constraints leave no token"
"""How the error of a request begins whose constraints, together, cannot be kept."""


def token_event(request: Request, place: int, logprobs: Mapping[int, Logprob] | None) -> TokenEvent:
    """What the token at `place` means: the request's end, where it is the last one. To be asked once of each token of
    an answer, in their order."""
    token, params = request.tokens[place], request.params
    goes_round = params.repetition_detection is not None and _goes_round(request, params.repetition_detection, token)
    num_output = place + 1 - len(request.prompt)
    finish: FinishReason | None = None
    stop_reason: int | str | None = None
    if token in request.stop_ids and num_output >= params.min_tokens:
        finish = FinishReason.STOP
        stop_reason = token if token in params.stop_ids else None
    elif num_output >= request.max_tokens:
        finish = FinishReason.LENGTH
    elif goes_round and num_output >= params.min_tokens:
        finish, stop_reason = FinishReason.REPETITION, "repetition_detected"
    if num_output > 1 or params.prompt_logprobs is None:
        return TokenEvent(request.id, token, finish, stop_reason, logprobs)
    return TokenEvent(request.id, token, finish, stop_reason, logprobs, prompt_logprobs=_of_prompt(request))


def failure(request: Request, position: int) -> TokenEvent:
    """The end of a request whose chunk up to `position` is not finite."""
    error = f"the model's output at position {position} is not finite; the request was ended, others go on"
    return TokenEvent(request_id=request.id, token=None, finish=FinishReason.ERROR, error=error)


def dead_end(request: Request, position: int) -> TokenEvent:
    """The end of a request that may draw no token at `position`: its constraints leave none."""
    error = f"{NO_TOKEN} at position {position}; it was ended, others go on"
    return TokenEvent(request_id=request.id, token=None, finish=FinishReason.ERROR, error=error)


def _of_prompt(request: Request) -> PromptLogprobs:
    found = len(request.prompt_logprobs)
    assert found == request.num_to_score, f"request {request.id!r}: {found} of {request.num_to_score} tokens are scored"
    return (None, *request.prompt_logprobs)


def _goes_round(request: Request, params: RepetitionDetectionParams, token: int) -> bool:
    if request.repetition is None:
        request.repetition = RepetitionSearch(params)
    return request.repetition.read(token)
