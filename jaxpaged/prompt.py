"""What a prompt and its parameters may be, before a request is made of it. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral

from jaxpaged.errors import ContextLengthError, ParameterError, PromptError
from jaxpaged.sampling_params import MAX_LOGPROBS, SamplingParams


def prompt_ids(prompt: object, encode: Callable[[str], list[int]]) -> tuple[int, ...]:
    """The token ids of a prompt: a text, which `encode` turns into ids, or the ids themselves (numpy's too).

    Raises PromptError for everything else, by its type or by its first entry that is no whole number.
    """
    if isinstance(prompt, str):
        return tuple(encode(prompt))
    if callable(as_list := getattr(prompt, "tolist", None)):  # an array, numpy's or another library's
        prompt = as_list()
    if isinstance(prompt, bytes | bytearray | Mapping | set | frozenset) or not isinstance(prompt, Iterable):
        raise PromptError(
            name="prompt",
            value=prompt,
            limit=f"it is of type {type(prompt).__name__}: it must be a text or a list of token ids",
            fix="Decode bytes to text first" if isinstance(prompt, bytes | bytearray) else "",
        )
    ids = tuple(prompt)
    for kind in set(map(type, ids)):
        if kind is bool or not issubclass(kind, Integral):
            bad = next(token for token in ids if type(token) is kind)
            raise PromptError(name="prompt token ids", value=bad, limit="every token id must be a whole number")
    return tuple(map(int, ids))


def truncated(ids: tuple[int, ...], params: SamplingParams, *, max_model_len: int) -> tuple[int, ...]:
    """A prompt's ids, as many as `truncate_prompt_tokens` keeps. -1 leaves room for max_tokens, or for one token."""
    kept = params.truncate_prompt_tokens
    if kept == -1:
        kept = max(1, max_model_len - (params.max_tokens or 1))
    if kept is None or len(ids) <= kept:
        return ids
    return ids[:kept] if params.truncation_side == "right" else ids[-kept:]


def check_params(params: SamplingParams, *, vocab: int, max_logprobs: int = MAX_LOGPROBS) -> None:
    """Raise ParameterError for parameters that name token ids which the model lacks, or ask for more logprobs a token,
    of the answer or the prompt, than max_logprobs; -1: of the whole vocabulary."""
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
        worst = max(getattr(params, name) or (), default=0)
        if worst >= vocab:
            raise ParameterError(name=name, value=worst, limit=f"the model's token ids go from 0 to {vocab - 1}")
    most = vocab if max_logprobs == -1 else max_logprobs
    limit, fix = f"a request may ask for {most} a token at most", "raise the engine's max_logprobs"
    if params.logprob_token_ids is None and (params.logprobs or 0) not in range(-1 if most >= vocab else 0, most + 1):
        fix = f"Name tokens in logprob_token_ids, or {fix} (-1: the whole vocabulary)"
        raise ParameterError(name="logprobs", value=params.logprobs, limit=limit, fix=fix)
    if (params.prompt_logprobs or 0) > most:
        fix = f"Ask for fewer, or {fix}"
        raise ParameterError(name="prompt_logprobs", value=params.prompt_logprobs, limit=limit, fix=fix)


def context_limit(max_model_len: int) -> str:
    """What a ContextLengthError says of the limit; clients that shorten prompts by themselves look for these words."""
    return (
        f"this model's maximum context length is {max_model_len} tokens, "
        f"of prompt and answer together (max_model_len={max_model_len})"
    )


def check_characters(num_characters: int, *, longest_token: int | None, max_model_len: int) -> None:
    """Raise ContextLengthError for a text that is too long whatever its tokens are.

    longest_token: characters that one of them stands for at most, None where there is no bound.
    """
    if longest_token is not None and num_characters > longest_token * max_model_len:
        raise ContextLengthError(
            name="prompt length",
            value=f"{num_characters} characters",
            limit=f"{context_limit(max_model_len)}, and no token has more than {longest_token} characters",
            fix="Shorten the prompt, or raise max_model_len",
        )


def check_tokens(num_tokens: int, *, max_model_len: int) -> None:
    """Raise ContextLengthError for a prompt that leaves no room for an answer's first token."""
    if num_tokens >= max_model_len:
        raise ContextLengthError(
            name="prompt length",
            value=num_tokens,
            limit=context_limit(max_model_len),
            fix=f"Shorten the prompt to {max_model_len - 1} tokens or fewer, or raise max_model_len",
        )


def check_prompt(ids: tuple[int, ...], prompt: object, *, vocab: int, max_model_len: int) -> None:
    """Raise PromptError for ids that are none or that the model lacks, ContextLengthError for too many.

    prompt: what `ids` came from, for the message.
    """
    if not ids:
        shown = prompt if isinstance(prompt, str) else []
        raise PromptError(name="prompt", value=shown, limit="it has no token", fix="Give at least one")
    lowest, highest = min(ids), max(ids)
    if lowest < 0 or highest >= vocab:
        bad = lowest if lowest < 0 else highest
        raise PromptError(name="prompt token id", value=bad, limit=f"the model's token ids go from 0 to {vocab - 1}")
    check_tokens(len(ids), max_model_len=max_model_len)
