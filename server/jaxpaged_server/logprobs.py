"""Log probabilities in the forms of the two APIs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

from jaxpaged.request import Logprob
from jaxpaged.tokenize import Tokenizer
from jaxpaged_server.api.chat import ChatLogprobs, TokenLogprob, TopLogprob
from jaxpaged_server.api.common import PromptLogprob, PromptLogprobs
from jaxpaged_server.api.completions import CompletionLogprobs
from jaxpaged_server.engine_process.wire import Pairs, pairs

_LEAST = -9999.0
"""In place of minus infinity, which JSON cannot hold (as OpenAI and vLLM have it)."""


def completion_logprobs(
    tokenizer: Tokenizer,
    *,
    ids: Sequence[int],
    logprobs: Sequence[Mapping[int, Logprob]],
    prompt_ids: Sequence[int],
    prompt_logprobs: Sequence[Pairs | None],
    wanted: int,
    named: Collection[int] = (),
    start: int,
    as_ids: bool,
) -> CompletionLogprobs:
    """Of the echoed prompt, then of the answer. start: characters told before.

    wanted: alternatives per token, -1 for all that were found. named: tokens that are told of the answer's in their
    place. Tokens whose text depends on their neighbours are told as they are alone, so offsets are exact where tokens
    are.
    """
    decode = _decoder(tokenizer)
    offsets: list[int] = []
    values: list[float | None] = []
    tokens: list[str] = []
    tops: list[dict[str, float] | None] = []
    at = start
    prompt = [(token, found, ()) for token, found in zip(prompt_ids, prompt_logprobs, strict=False)]
    answer = [(token, found, named) for token, found in zip(ids, map(pairs, logprobs), strict=True)]
    for token, found, instead in (*prompt, *answer):
        text = _token(decode, token, as_ids)
        tokens.append(text)
        offsets.append(at)
        at += len(decode(token))
        if found is None:
            values.append(None)
            tops.append(None)
            continue
        own = _number(found[token][0])
        values.append(own)
        chosen = _chosen(found, wanted, instead)
        top = {_token(decode, other, as_ids): _number(logprob) for other, (logprob, _) in chosen}
        top.setdefault(text, own)
        tops.append(top)
    return CompletionLogprobs(text_offset=offsets, token_logprobs=values, tokens=tokens, top_logprobs=tops)


def chat_logprobs(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    logprobs: Sequence[Mapping[int, Logprob]],
    *,
    wanted: int,
    named: Collection[int] = (),
    as_ids: bool,
) -> ChatLogprobs:
    """Of an answer's tokens; wanted, named: as in `completion_logprobs`."""
    decode = _decoder(tokenizer)
    content: list[TokenLogprob] = []
    for token, found in zip(ids, map(pairs, logprobs), strict=True):
        assert found is not None
        content.append(
            TokenLogprob(
                token=_token(decode, token, as_ids),
                logprob=_number(found[token][0]),
                bytes=_bytes(tokenizer, decode, token),
                top_logprobs=[
                    TopLogprob(
                        token=_token(decode, other, as_ids),
                        logprob=_number(logprob),
                        bytes=_bytes(tokenizer, decode, other),
                    )
                    for other, (logprob, _) in _chosen(found, wanted, named)
                ],
            )
        )
    return ChatLogprobs(content=content)


def prompt_logprobs_reply(
    tokenizer: Tokenizer, ids: Sequence[int], found: Sequence[Pairs | None] | None, *, wanted: int
) -> PromptLogprobs:
    """In vLLM's form: per token of the prompt a map of token ids, null for the first. wanted: alternatives per token;
    more may have been found for an echo.
    """
    decode = _decoder(tokenizer)
    return [
        None
        if entry is None
        else {
            str(token): PromptLogprob(
                logprob=_number(logprob),
                rank=rank,
                decoded_token=decode(token),
            )
            for token, (logprob, rank) in entry.items()
            if token == own or rank <= wanted
        }
        for own, entry in zip(ids, found or (), strict=False)
    ]


def _decoder(tokenizer: Tokenizer) -> Callable[[int], str]:
    """The text of a token by itself; one that comes again, as the likeliest ones do, is decoded once."""
    return cache(lambda token: tokenizer.decode([token], skip_special_tokens=False))


def _chosen(found: Pairs, wanted: int, named: Collection[int]) -> list[tuple[int, tuple[float, int]]]:
    """The alternatives that are told, the likeliest first."""
    if named:
        told = ((token, found[token]) for token in dict.fromkeys(named) if token in found)
        return sorted(told, key=lambda item: -item[1][0])
    ranked = sorted(found.items(), key=_rank)
    return ranked if wanted == -1 else ranked[:wanted]


def _rank(item: tuple[int, tuple[float, int]]) -> int:
    return item[1][1]


def _token(decode: Callable[[int], str], token: int, as_ids: bool) -> str:
    return f"token_id:{token}" if as_ids else decode(token)


def _bytes(tokenizer: Tokenizer, decode: Callable[[int], str], token: int) -> list[int]:
    spelled = tokenizer.spell(token)
    return list(decode(token).encode() if spelled is None else spelled)


def _number(logprob: float) -> float:
    return max(logprob, _LEAST)
