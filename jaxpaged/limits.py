"""The limits of a step, and what one request may ask for within them. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jaxpaged.demand import KVDemand
from jaxpaged.errors import CapacityError, ConfigError, ContextLengthError
from jaxpaged.prompt import context_limit
from jaxpaged.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of a step and how prompts share it. Raises ConfigError.

    max_rows, max_step_tokens: requests and tokens in one step. max_model_len: longest context, in tokens.
    chunk_align: chunks of a prompt end at multiples of it, unless they end the prompt.
    long_prompt_share: part of a step that one prompt may take while other prompts could use the rest.
    max_preemptions: of one request, before it is given room for its whole life.
    kv_dtype: what K and V are held in; part of every cached prefix's key.
    """

    max_rows: int
    max_step_tokens: int
    max_model_len: int
    chunk_align: int = 1
    prefix_caching: bool = True
    long_prompt_share: float = 0.5
    max_preemptions: int = 4
    kv_dtype: str = ""

    def __post_init__(self) -> None:
        for name, value, low, why in (
            ("max_rows", self.max_rows, 1, ""),
            ("chunk_align", self.chunk_align, 1, ""),
            ("max_model_len", self.max_model_len, 2, "it covers prompt and answer together"),
            ("max_preemptions", self.max_preemptions, 0, ""),
            ("max_step_tokens", self.max_step_tokens, self.max_rows, "every row needs a token (max_rows)"),
            ("max_step_tokens", self.max_step_tokens, self.chunk_align, "a chunk must reach the next chunk_align"),
        ):
            if value < low:
                raise ConfigError(name=name, value=value, limit=f"it must be at least {low}", fix=why.capitalize())
        if not 0 < self.long_prompt_share <= 1:
            raise ConfigError(
                name="long_prompt_share", value=self.long_prompt_share, limit="it must be above 0 and at most 1"
            )

    @property
    def num_seats(self) -> int:
        return num_seats(self.max_rows)

    @property
    def fair_chunk(self) -> int:
        """Tokens of a step that one prompt may take whatever others could use."""
        return max(self.chunk_align, int(self.max_step_tokens * self.long_prompt_share))

    def chunk(self, request: Request, start: int, room: int, others: int) -> int:
        """How many tokens from `start` on to compute, 0 if too few fit; others: tokens that other prompts could use."""
        end = request.num_tokens
        take = min(end - start, room, max(self.fair_chunk, room - others))
        if start + take < end:
            take -= (start + take) % self.chunk_align
        return max(0, take)


def num_seats(max_rows: int) -> int:
    """Seats for running requests: one whose last token is in flight keeps its own beside that of its follower."""
    return 2 * max_rows


def score_rows(platform: str) -> int:
    """Places of a prompt that are scored at a time: with fewer a GPU waits for the head's weights more often, with more
    a short prompt is padded more, and more logits are in memory."""
    return 64 if platform == "cpu" else 128


def longest_life(request: Request) -> int:
    """Tokens a request may come to hold in the KV pool: the last one it draws is never computed."""
    return len(request.prompt) + request.max_tokens - 1


def prompt_tokens(requests: Iterable[Request], limit: int) -> int:
    """Uncomputed tokens of the prompts among `requests`, counted up to about `limit`."""
    total = 0
    for request in requests:
        if request.num_uncomputed > 1:
            total += request.num_uncomputed
            if total >= limit:
                break
    return total


def check_request(request: Request, *, max_model_len: int, demand: KVDemand, max_blocks: int) -> None:
    """Raise what is wrong with a request: ContextLengthError or CapacityError.

    max_model_len: tokens of the longest context. max_blocks: blocks that one request can hold in all KV groups.
    """
    length = len(request.prompt)
    if length >= max_model_len:
        raise ContextLengthError(
            name="prompt length",
            value=length,
            limit=context_limit(max_model_len),
            fix=f"Shorten the prompt to {max_model_len - 1} tokens or fewer, or raise max_model_len",
        )
    room = max_model_len - length
    if not 1 <= request.max_tokens <= room:
        raise ContextLengthError(
            name="max_tokens",
            value=request.max_tokens,
            limit=f"after a prompt of {length} tokens it must be from 1 to {room}: {context_limit(max_model_len)}",
        )
    life, size = longest_life(request), demand.block_size
    needed = demand.blocks(life)
    if needed > max_blocks:
        fitting = demand.longest(max_blocks, at_most=life) + 1  # the last one drawn is never computed
        raise CapacityError(
            name="prompt and max_tokens",
            value=length + request.max_tokens,
            limit=f"so many tokens need {needed} KV blocks of {size} tokens, and the pool has {max_blocks}",
            fix=f"Keep both together to {fitting} tokens, or enlarge the KV cache",
        )
