"""The answers to a conversation, in the form of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial

import msgspec

from jaxpaged.dialects.deltas import CallDelta, ContentDelta, Delta, ReasoningDelta, message_of
from jaxpaged.dialects.parser import DialectParser
from jaxpaged.request import CompletionOutput
from jaxpaged_server.api.chat import (
    AnswerMessage,
    ChatChoice,
    ChatEvent,
    ChatEventChoice,
    ChatLogprobs,
    ChatReply,
    ChatRequest,
)
from jaxpaged_server.api.chat import Delta as AnswerDelta
from jaxpaged_server.api.common import ABSENT, StreamOptions, Usage, usage_of
from jaxpaged_server.api.tools import FunctionCall, FunctionDelta, ToolCall, ToolCallDelta
from jaxpaged_server.generation import Answer, Job, outputs_of
from jaxpaged_server.logprobs import chat_logprobs, prompt_logprobs_reply
from jaxpaged_server.routes.messages import text_of
from jaxpaged_server.routes.sampling import Head, num_told
from jaxpaged_server.services import Services
from jaxpaged_server.stream import EventStream

_NOTHING = AnswerDelta()


class ChatWriter:
    """Outputs in the form of the API: one per request.

    new_parser: makes the parser of an answer; None where text is all that answers hold. most_calls: of an answer, that
    are told. ends_in_calls: whether an answer that ends with calls says so in its finish reason.
    """

    def __init__(
        self,
        services: Services,
        head: Head,
        body: ChatRequest,
        job: Job,
        answers: Sequence[Answer],
        *,
        new_parser: Callable[[], DialectParser] | None,
        most_calls: int | None = None,
        ends_in_calls: bool = True,
    ) -> None:
        self._services = services
        self._head = head
        self._body = body
        self._job = job
        self._answers = answers
        self._parsers = None if new_parser is None else [new_parser() for _ in answers]
        self._most_calls = most_calls
        self._ends_in_calls = ends_in_calls
        self._options = body.stream_options or StreamOptions()
        self._begun = [False] * len(answers)
        self._called = [False] * len(answers)
        self._role = services.settings.response_role
        self._echoed = _echoed(body, self._role)
        self._opening = AnswerDelta(role=self._role, content=self._echoed)

    def reply(self, outputs: Sequence[tuple[Answer, CompletionOutput]]) -> ChatReply:
        """All of it, at once."""
        head, body = self._head, self._body
        choices = [
            ChatChoice(
                index=i,
                message=self._message(i, said),
                logprobs=self._logprobs(said),
                finish_reason=self._reason(i, said.finish_reason),
                stop_reason=said.stop_reason,
                token_ids=list(said.token_ids) if body.return_token_ids else ABSENT,
            )
            for i, (_, said) in enumerate(outputs)
        ]
        found = self._answers[0].prompt_logprobs
        tokenizer, ids = self._services.text.tokenizer, self._job.prompts[0].ids
        return ChatReply(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=self.usage(),
            system_fingerprint=head.system_fingerprint,
            prompt_logprobs=ABSENT
            if body.prompt_logprobs is None
            else prompt_logprobs_reply(tokenizer, ids, found, wanted=body.prompt_logprobs),
            prompt_token_ids=list(ids) if body.return_token_ids else ABSENT,
        )

    async def events(self, events: EventStream) -> None:
        """Send the whole stream but its end: the role, then what is said, then the usage where it is asked for."""
        options = self._options
        async with aclosing(outputs_of(self._answers)) as outputs:
            async for answer, said in outputs:
                i, usage = answer.index, self.usage() if options.continuous_usage_stats else ABSENT
                if not self._begun[i]:
                    self._begun[i] = True
                    opening = self._event([ChatEventChoice(index=i, delta=self._opening)], usage)
                    if self._body.return_token_ids:
                        ids = list(self._job.prompts[0].ids)
                        opening = msgspec.structs.replace(opening, prompt_token_ids=ids)
                    await events.send(opening)
                delta = self._delta(i, said)
                scores = num_told(self._job, len(said.token_ids))
                logprobs = None
                if scores:
                    logprobs = await self._services.text.aside(self._job.key, scores, partial(self._logprobs, said))
                choice = ChatEventChoice(
                    index=i,
                    delta=delta,
                    logprobs=logprobs,
                    finish_reason=self._reason(i, said.finish_reason),
                    stop_reason=ABSENT if said.finish_reason is None else said.stop_reason,
                    token_ids=list(said.token_ids) if self._body.return_token_ids else ABSENT,
                )
                if said.finish_reason or self._tells(delta, said):
                    await events.send(self._event([choice], usage))
        if options.include_usage:
            await events.send(self._event([], self.usage()))

    def usage(self) -> Usage:
        """Of all answers so far; the prompt counts once."""
        answers = self._answers
        tokens = sum(answer.num_tokens for answer in answers)
        return usage_of(self._job.prompt_tokens, tokens, answers[0].request.num_cached)

    def _message(self, i: int, said: CompletionOutput) -> AnswerMessage:
        if self._parsers is None:
            return AnswerMessage(content=self._echoed + said.text, role=self._role)
        parser = self._parsers[i]
        deltas = self._told(i, [*parser.push(said.text), *parser.finish()])
        message = message_of(deltas)
        content = self._echoed + message.content
        calls = [
            ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
            for call in message.calls
        ]
        return AnswerMessage(
            content=content or (None if calls or message.reasoning else ""),
            role=self._role,
            reasoning=message.reasoning or ABSENT,
            reasoning_content=message.reasoning or ABSENT,
            tool_calls=calls or ABSENT,
        )

    def _delta(self, i: int, said: CompletionOutput) -> AnswerDelta:
        if self._parsers is None:
            return AnswerDelta(content=said.text) if said.text else _NOTHING
        parser = self._parsers[i]
        deltas = parser.push(said.text)
        if said.finish_reason is not None:
            deltas += parser.finish()
        return _merged(self._told(i, deltas))

    def _told(self, i: int, deltas: Iterable[Delta]) -> list[Delta]:
        """Those that the request wants to see."""
        told: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, ReasoningDelta) and self._body.include_reasoning is False:
                continue
            if isinstance(delta, CallDelta):
                if self._most_calls is not None and delta.index >= self._most_calls:
                    continue
                self._called[i] = True
            told.append(delta)
        return told

    def _reason(self, i: int, reason: str | None) -> str | None:
        """A finish reason; of an answer that came to its own end with calls, another one."""
        return "tool_calls" if reason == "stop" and self._called[i] and self._ends_in_calls else reason

    def _tells(self, delta: AnswerDelta, said: CompletionOutput) -> bool:
        """Whether an event has something in it. Markup is no text, and what may be markup is told later."""
        if self._parsers is None or self._body.logprobs or self._body.return_token_ids:
            return bool(said.text or said.token_ids)
        return delta is not _NOTHING

    def _logprobs(self, said: CompletionOutput) -> ChatLogprobs | None:
        body = self._body
        if not body.logprobs:
            return None
        wanted, as_ids = body.top_logprobs or 0, bool(body.return_tokens_as_token_ids)
        tokenizer = self._services.text.tokenizer
        return chat_logprobs(
            tokenizer,
            said.token_ids,
            said.logprobs or (),
            wanted=wanted,
            named=body.logprob_token_ids or (),
            as_ids=as_ids,
        )

    def _event(self, choices: list[ChatEventChoice], usage: Usage | msgspec.UnsetType) -> ChatEvent:
        head = self._head
        return ChatEvent(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            system_fingerprint=head.system_fingerprint,
            usage=usage,
        )


def _merged(deltas: Sequence[Delta]) -> AnswerDelta:
    """The deltas in one event."""
    if not deltas:
        return _NOTHING
    content = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    calls = [_call(delta) for delta in deltas if isinstance(delta, CallDelta)]
    return AnswerDelta(
        content=content or ABSENT,
        reasoning=reasoning or ABSENT,
        reasoning_content=reasoning or ABSENT,
        tool_calls=calls or ABSENT,
    )


def _call(delta: CallDelta) -> ToolCallDelta:
    if delta.name is None:
        return ToolCallDelta(index=delta.index, function=FunctionDelta(arguments=delta.arguments))
    function = FunctionDelta(name=delta.name, arguments=delta.arguments)
    return ToolCallDelta(index=delta.index, id=delta.id or ABSENT, type="function", function=function)


def _echoed(body: ChatRequest, role: str) -> str:
    """What goes before the answer: the last message, where the answer goes on with it or is of the same role."""
    last = body.messages[-1]
    goes_on = body.continue_final_message or body.add_generation_prompt is False
    return text_of(last) if body.echo and (goes_on or last.role == role) else ""
