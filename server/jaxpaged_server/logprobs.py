"""Log probabilities in the forms of the two APIs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    start: int,
    as_ids: bool,
) -> CompletionLogprobs:
    """Of the echoed prompt, then of the answer. wanted: alternatives per token; start: characters told before.

    Tokens whose text depends on their neighbours are told as they are alone, so offsets are exact where tokens are.
    """
    decode = _decoder(tokenizer)
    offsets: list[int] = []
    values: list[float | None] = []
    tokens: list[str] = []
    tops: list[dict[str, float] | None] = []
    at = start
    entries = [*zip(prompt_ids, prompt_logprobs, strict=False), *zip(ids, map(pairs, logprobs), strict=True)]
    for token, found in entries:
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
        likeliest = sorted(found.items(), key=_rank)[: max(wanted, 0)]
        top = {_token(decode, other, as_ids): _number(logprob) for other, (logprob, _) in likeliest}
        top.setdefault(text, own)
        tops.append(top)
    return CompletionLogprobs(text_offset=offsets, token_logprobs=values, tokens=tokens, top_logprobs=tops)


def chat_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[Mapping[int, Logprob]], *, wanted: int, as_ids: bool
) -> ChatLogprobs:
    """Of an answer's tokens; wanted: alternatives per token."""
    decode = _decoder(tokenizer)
    content: list[TokenLogprob] = []
    for token, found in zip(ids, logprobs, strict=True):
        likeliest = sorted(found.items(), key=lambda item: item[1].rank or 0)[:wanted]
        content.append(
            TokenLogprob(
                token=_token(decode, token, as_ids),
                logprob=_number(found[token].logprob),
                bytes=_bytes(tokenizer, decode, token),
                top_logprobs=[
                    TopLogprob(
                        token=_token(decode, other, as_ids),
                        logprob=_number(p.logprob),
                        bytes=_bytes(tokenizer, decode, other),
                    )
                    for other, p in likeliest
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


def _rank(item: tuple[int, tuple[float, int]]) -> int:
    return item[1][1]


def _token(decode: Callable[[int], str], token: int, as_ids: bool) -> str:
    return f"token_id:{token}" if as_ids else decode(token)


def _bytes(tokenizer: Tokenizer, decode: Callable[[int], str], token: int) -> list[int]:
    spelled = tokenizer.spell(token)
    return list(decode(token).encode() if spelled is None else spelled)


def _number(logprob: float) -> float:
    return max(logprob, _LEAST)
