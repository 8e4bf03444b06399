"""What completions and chat share: their fields become SamplingParams and a Job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from jaxpaged.errors import ParameterError
from jaxpaged.outputs import OutputKind
from jaxpaged.prompt import truncated
from jaxpaged.repetition import RepetitionDetectionParams
from jaxpaged.request import SamplingParams
from jaxpaged.sampling_defaults import SamplingDefaults
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged_server.api.common import MAX_TIMEOUT_S, MIN_TIMEOUT_S, SamplingFields
from jaxpaged_server.generation import Answer, Job, Prompt
from jaxpaged_server.routes.beams import beam_params, length_penalty_of
from jaxpaged_server.services import REQUEST_ID, Services, flight_of, key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What every reply and event of a request begins with. created: Unix seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str


_ALIKE = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "ignore_eos", "min_tokens"),
    *("include_stop_str_in_output", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("logprob_token_ids", "allowed_token_ids", "bad_words", "thinking_token_budget", "skip_special_tokens"),
    *("truncate_prompt_tokens", "truncation_side"),
)
"""Fields of a body that `SamplingParams` has by the same name, and with the same values."""


def sampling_params(
    body: SamplingFields,
    defaults: SamplingDefaults,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
    form: StructuredOutputsParams | None,
) -> SamplingParams:
    """The parameters of a body; what it leaves out has the model's default, or else vLLM's. form: of the answers.

    Raises ParameterError.
    """
    if length_penalty_of(body) is not None:
        most = defaults.max_tokens(max_tokens)
        return beam_params(body, max_tokens=most, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
    logprobs = _logprobs(body, logprobs)
    given: dict[str, Any] = {name: getattr(body, name) for name in _ALIKE}
    given |= {"logprobs": logprobs, "prompt_logprobs": prompt_logprobs, "structured_outputs": form}
    if body.logit_bias is not None:
        given["logit_bias"] = {int(token): bias for token, bias in body.logit_bias.items()}
    if body.repetition_detection is not None:
        given["repetition_detection"] = RepetitionDetectionParams(**msgspec.structs.asdict(body.repetition_detection))
    given = {name: value for name, value in given.items() if value is not None}
    return SamplingParams(**{**defaults.values, **given, "max_tokens": defaults.max_tokens(max_tokens)})


def _logprobs(body: SamplingFields, logprobs: int | None) -> int | None:
    """Alternatives that are computed per token; None for none, and where tokens are named in their place.

    Raises ParameterError.
    """
    n = body.n or 1
    if body.best_of is not None and body.best_of < n:
        raise ParameterError(name="best_of", value=body.best_of, limit=f"it may not be below n={n}")
    if (body.best_of or n) > n and body.stream:
        limit, fix = "the best are known at the end, and a stream tells before", f"Set stream to false, or it to {n}"
        raise ParameterError(name="best_of", value=body.best_of, limit=limit, fix=fix)
    if body.logprob_token_ids is not None:
        if logprobs is None:
            shown, limit = body.logprob_token_ids, "logprobs are not asked for"
            raise ParameterError(name="logprob_token_ids", value=shown, limit=limit, fix="Set logprobs")
        return None
    return logprobs or 0 if (body.best_of or n) > n else logprobs  # by which the best are chosen


def cut_prompt(prompt: Prompt, params: SamplingParams, *, max_model_len: int) -> Prompt:
    """A prompt, or what `truncate_prompt_tokens` keeps of a longer one: tokens, whose text is not what was sent."""
    ids = truncated(prompt.ids, params, max_model_len=max_model_len)
    return prompt if len(ids) == len(prompt.ids) else Prompt(ids=ids)


def make_job(
    services: Services,
    request: web.Request,
    body: SamplingFields,
    prompts: tuple[Prompt, ...],
    params: SamplingParams,
    *,
    asked_tokens: int | None,
    deadline: float,
    shown: frozenset[int] = frozenset(),
) -> Job:
    """The job of a request. asked_tokens, deadline, shown: see `Job`.

    Raises ParameterError for stream options without a stream.
    """
    if body.stream_options is not None and not body.stream:
        raise ParameterError(
            name="stream_options", value="given", limit="there is no stream", fix="Set stream to true, or leave it out"
        )
    key = key_of(request)
    return Job(
        flight=flight_of(request),
        headers=request.headers,
        model=services.model(body.model),
        key=key,
        prompts=prompts,
        params=params,
        asked_tokens=asked_tokens,
        n=body.best_of or body.n or 1,
        told=body.n or 1 if (body.best_of or 1) > (body.n or 1) else None,
        length_penalty=length_penalty_of(body),
        kind=OutputKind.DELTA if body.stream else OutputKind.FINAL_ONLY,
        salt=key.namespace(body.cache_salt),
        deadline=deadline,
        shown=shown,
        stream_interval=max(services.settings.stream_interval, body.stream_interval or 1),
        alternatives=_alternatives(params, services.info().vocab),
    )


def num_scores(job: Job, answers: Sequence[Answer]) -> int:
    """Log probabilities that the reply tells: by these it is small, or takes long to make."""
    tokens = sum(answer.num_tokens for answer in answers)
    return job.prompt_scores + num_told(job, tokens)


def num_told(job: Job, num_tokens: int) -> int:
    """Log probabilities that are told of so many tokens of answers."""
    return 0 if job.alternatives is None else num_tokens * (1 + job.alternatives)


def _alternatives(params: SamplingParams, vocab: int) -> int | None:
    if params.logprob_token_ids is not None:
        return len(params.logprob_token_ids)
    return vocab if params.logprobs == -1 else params.logprobs


def make_head(services: Services, request: web.Request, body: SamplingFields, prefix: str) -> Head:
    """Raises ModelNotFoundError and NotReadyError.

    The id holds, as in vLLM, the header X-Request-Id, else the field request_id; else the id that the log has. A header
    of other characters than those of an id counts as none.
    """
    model, info = services.model(body.model), services.info()
    known = request[REQUEST_ID]
    name = known if request.headers.get("X-Request-Id") == known else body.request_id or known
    return Head(
        id=f"{prefix}-{name}",
        created=services.now(),
        model=model,
        system_fingerprint=f"fp_{info.fingerprint}",
    )


def deadline_of(services: Services, request: web.Request, timeout: float | None = None) -> float:
    """When a request is ended that was read just now, on the monotonic clock: by the least of its field `timeout`, its
    header X-Request-Timeout, and the server's limit. Raises ParameterError."""
    limits = [services.settings.request_timeout_s]
    if timeout is not None:
        limits.append(timeout)
    header = request.headers.get("X-Request-Timeout")
    if header is not None:
        try:
            seconds = float(header)
        except ValueError:
            seconds = 0.0
        if not MIN_TIMEOUT_S <= seconds <= MAX_TIMEOUT_S:
            limit = f"it must be seconds, at least {MIN_TIMEOUT_S:g} and at most {MAX_TIMEOUT_S:.0f}"
            raise ParameterError(name="X-Request-Timeout", value=header[:64], limit=limit)
        limits.append(seconds)
    return time.monotonic() + min(limits)
