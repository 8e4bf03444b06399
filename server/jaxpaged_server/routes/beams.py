"""Fields of a request that asks for beam search: its choices are the sequences found, the best first."""

from __future__ import annotations

from jaxpaged.beams import MAX_BEAMS
from jaxpaged.errors import ParameterError
from jaxpaged.request import SamplingParams
from jaxpaged_server.api.common import SamplingFields
from jaxpaged_server.api.structured import TextFormat

_NEUTRAL = {
    "temperature": (0.0, 1.0),
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "stop": ([],),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "logprob_token_ids": (),
    "repetition_detection": (),
    "thinking_token_budget": (-1,),
    "response_format": (TextFormat(),),
    "structured_outputs": (),
    "stream": (False,),
}
"""What a beam search does not do: beams are ranked by the model's own probabilities, and told at the end."""


def length_penalty_of(body: SamplingFields) -> float | None:
    """The length penalty of the beam search that a body asks for; None for none. Raises ParameterError."""
    if body.use_beam_search:
        return 1.0 if body.length_penalty is None else body.length_penalty
    if body.length_penalty not in (None, 1.0):
        limit = "it belongs to beam search"
        raise ParameterError(
            name="length_penalty", value=body.length_penalty, limit=limit, fix="Set use_beam_search, or leave it out"
        )
    return None


def beam_params(
    body: SamplingFields, *, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None
) -> SamplingParams:
    """What each beam asks for. Raises ParameterError for a field that a beam search would not follow."""
    for name, neutral in _NEUTRAL.items():
        if (value := getattr(body, name)) is not None and value not in neutral:
            raise ParameterError(
                name=name,
                value=value,
                limit="a beam search does not have it",
                fix="Leave it out, or set use_beam_search to false",
            )
    n = body.n or 1
    if prompt_logprobs is not None:
        limit = "a beam search does not tell them"
        raise ParameterError(name="prompt_logprobs", value=prompt_logprobs, limit=limit, fix="Leave it out")
    if body.best_of not in (None, n):
        limit = f"a search with n={n} has as many beams"
        raise ParameterError(name="best_of", value=body.best_of, limit=limit, fix="Leave it out")
    if n > MAX_BEAMS:
        raise ParameterError(name="n", value=n, limit=f"a search has {MAX_BEAMS} beams at most")
    return SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        stop_token_ids=body.stop_token_ids,
        ignore_eos=bool(body.ignore_eos),
        include_stop_str_in_output=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        logprobs=max(2 * n, logprobs or 0),
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        truncation_side=body.truncation_side,
    )
