"""Log probabilities in the forms of the two APIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxpaged.request import Logprob
from jaxpaged.tokenize import Tokenizer
from jaxpaged_server.api.chat import ChatLogprobs, TokenLogprob, TopLogprob
from jaxpaged_server.api.common import PromptLogprob, PromptLogprobs
from jaxpaged_server.api.completions import CompletionLogprobs

_LEAST = -9999.0
"""In place of minus infinity, which JSON cannot hold (as OpenAI and vLLM have it)."""


def completion_logprobs(
    tokenizer: Tokenizer,
    *,
    ids: Sequence[int],
    logprobs: Sequence[Mapping[int, Logprob]],
    prompt_ids: Sequence[int],
    prompt_logprobs: Sequence[Mapping[int, Logprob] | None],
    wanted: int,
    start: int,
    as_ids: bool,
) -> CompletionLogprobs:
    """Of the echoed prompt, then of the answer. wanted: alternatives per token; start: characters told before.

    Tokens whose text depends on their neighbours are told as they are alone, so offsets are exact where tokens are.
    """
    offsets: list[int] = []
    values: list[float | None] = []
    tokens: list[str] = []
    tops: list[dict[str, float] | None] = []
    at = start
    entries = [*zip(prompt_ids, prompt_logprobs, strict=False), *zip(ids, logprobs, strict=True)]
    for token, found in entries:
        text = _token(tokenizer, token, as_ids)
        tokens.append(text)
        offsets.append(at)
        at += len(tokenizer.decode([token], skip_special_tokens=False)) if as_ids else len(text)
        if found is None:
            values.append(None)
            tops.append(None)
            continue
        values.append(_number(found[token].logprob))
        likeliest = sorted(found.items(), key=lambda item: item[1].rank or 0)[: max(wanted, 0)]
        top = {_token(tokenizer, other, as_ids): _number(p.logprob) for other, p in likeliest}
        top.setdefault(text, _number(found[token].logprob))
        tops.append(top)
    return CompletionLogprobs(text_offset=offsets, token_logprobs=values, tokens=tokens, top_logprobs=tops)


def chat_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[Mapping[int, Logprob]], *, wanted: int, as_ids: bool
) -> ChatLogprobs:
    """Of an answer's tokens; wanted: alternatives per token."""
    content: list[TokenLogprob] = []
    for token, found in zip(ids, logprobs, strict=True):
        likeliest = sorted(found.items(), key=lambda item: item[1].rank or 0)[:wanted]
        content.append(
            TokenLogprob(
                token=_token(tokenizer, token, as_ids),
                logprob=_number(found[token].logprob),
                bytes=_bytes(tokenizer, token),
                top_logprobs=[
                    TopLogprob(
                        token=_token(tokenizer, other, as_ids),
                        logprob=_number(p.logprob),
                        bytes=_bytes(tokenizer, other),
                    )
                    for other, p in likeliest
                ],
            )
        )
    return ChatLogprobs(content=content)


def prompt_logprobs_reply(tokenizer: Tokenizer, found: Sequence[Mapping[int, Logprob] | None] | None) -> PromptLogprobs:
    """In vLLM's form: per token of the prompt a map of token ids, null for the first."""
    return [
        None
        if entry is None
        else {
            str(token): PromptLogprob(
                logprob=_number(p.logprob),
                rank=p.rank,
                decoded_token=tokenizer.decode([token], skip_special_tokens=False),
            )
            for token, p in entry.items()
        }
        for entry in found or ()
    ]


def _token(tokenizer: Tokenizer, token: int, as_ids: bool) -> str:
    return f"token_id:{token}" if as_ids else tokenizer.decode([token], skip_special_tokens=False)


def _bytes(tokenizer: Tokenizer, token: int) -> list[int]:
    spelled = tokenizer.spell(token)
    return list(tokenizer.decode([token], skip_special_tokens=False).encode() if spelled is None else spelled)


def _number(logprob: float) -> float:
    return max(logprob, _LEAST)
