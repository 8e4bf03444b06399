"""An engine without a model: it says back the letters of the prompt, one a step, as many as asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from jaxpaged.errors import PromptError
from jaxpaged.metrics import EngineMetrics
from jaxpaged.outputs import OutputKind
from jaxpaged.request import CompletionOutput, RequestOutput, SamplingParams


class LetterTokenizer:
    """Token ids are code points; a conversation becomes "role:content|" and "assistant:"."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def apply_chat_template(self, messages: Sequence[Any], *, add_generation_prompt: bool = True) -> str:
        if any("role" not in message for message in messages):
            raise PromptError(name="messages", value=messages, limit="the chat template refused them")
        opening = "".join(f"{message['role']}:{message['content']}|" for message in messages)
        return opening + ("assistant:" if add_generation_prompt else "")


@dataclass
class Going:
    prompt: tuple[int, ...]
    params: SamplingParams
    kind: OutputKind
    letters: list[str] = field(default_factory=list)


class LetterEngine:
    """The face of `LLMEngine` that the commands use. The prompt "bad" ends in an error; `before_step` may raise."""

    def __init__(self, *, max_num_seqs: int = 2) -> None:
        self.tokenizer = LetterTokenizer()
        self.config = SimpleNamespace(max_num_seqs=max_num_seqs)
        self.metrics = EngineMetrics()
        self.going: dict[str, Going] = {}
        self.submitted: list[tuple[str, SamplingParams]] = []
        self.before_step: Callable[[], None] = lambda: None
        self.on_step: Callable[[], None] = lambda: None
        self.most_in_flight = 0
        self.pool_is_lost = False
        self._ids = itertools.count()

    def check(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> None:
        if not len(prompt):
            raise PromptError(name="prompt", value=prompt, limit="it has no token")

    def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        output_kind: OutputKind = OutputKind.CUMULATIVE,
    ) -> str:
        self.check(prompt, params)
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        request_id = f"request-{next(self._ids)}"
        params = params or SamplingParams()
        self.going[request_id] = Going(tuple(ids), params, output_kind)
        self.submitted.append(("".join(map(chr, ids)), params))
        self.most_in_flight = max(self.most_in_flight, len(self.going))
        return request_id

    def abort(self, request_id: str) -> bool:
        return self.going.pop(request_id, None) is not None

    def rebuild_pool(self) -> None:
        assert not self.going
        self.pool_is_lost = False

    @property
    def has_unfinished(self) -> bool:
        return bool(self.going)

    def step(self) -> list[RequestOutput]:
        self.before_step()
        self.on_step()
        self.metrics.steps += 1
        outputs: list[RequestOutput] = []
        for request_id in list(itertools.islice(self.going, self.config.max_num_seqs)):
            going = self.going[request_id]
            error = "the model said nonsense" if "".join(map(chr, going.prompt)) == "bad" else None
            if error is None:
                going.letters.append(chr(going.prompt[len(going.letters) % len(going.prompt)]))
            finished = error is not None or len(going.letters) == (going.params.max_tokens or 8)
            if finished:
                del self.going[request_id]
            if finished or going.kind is not OutputKind.FINAL_ONLY:
                outputs.append(self._output(request_id, going, finished=finished, error=error))
        return outputs

    def _output(self, request_id: str, going: Going, *, finished: bool, error: str | None) -> RequestOutput:
        letters = going.letters[-1:] if going.kind is OutputKind.DELTA and error is None else going.letters
        reason = ("error" if error else "length") if finished else None
        completion = CompletionOutput(
            index=0, text="".join(letters), token_ids=tuple(map(ord, letters)), finish_reason=reason
        )
        return RequestOutput(
            request_id=request_id,
            prompt=None,
            prompt_token_ids=going.prompt,
            outputs=(completion,),
            finished=finished,
            error=error,
        )


@pytest.fixture
def engine() -> LetterEngine:
    return LetterEngine()
