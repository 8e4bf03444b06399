"""`jaxpaged chat`: a conversation in the terminal, or line by line from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jaxpaged.commands.flags import EngineFlags, OptionalText, SamplingFlags, Switch, given_fields, parse
from jaxpaged.commands.terminal import checked_text, for_few, say, start_engine, write
from jaxpaged.config import EngineConfig
from jaxpaged.errors import RequestError
from jaxpaged.request import SamplingParams
from jaxpaged.sampling_defaults import sampling_defaults
from jaxpaged.weights.source import localised

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine

HELP = "/reset forgets the conversation, /exit (or ctrl-D) ends it, ctrl-C stops an answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """Talk with a model that has a chat template. Commands: /reset, /exit; ctrl-C stops an answer, ctrl-D ends."""

    system_prompt: OptionalText = None
    """What the model is told before the conversation."""
    quiet: Switch = False
    """No start-up table."""
    engine: EngineFlags = field(default_factory=lambda: EngineConfig(early_start=True))
    """As in `LLM(...)`; names and meanings are vLLM's."""
    sampling: SamplingFlags = field(default_factory=lambda: SamplingParams(temperature=0.7, max_tokens=None))
    """As in `SamplingParams(...)`; the model's generation_config.json comes before the defaults here."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(ChatOptions, argv, prog="jaxpaged chat")
    said = given_fields(SamplingParams, argv)
    options = replace(options, engine=localised(options.engine, progress=not options.quiet))
    options = replace(options, sampling=sampling_defaults(options.engine).fill(options.sampling, said=said))
    system_prompt = None if options.system_prompt is None else checked_text(options.system_prompt, "--system-prompt")
    engine = start_engine(for_few(options.engine, 1), quiet=options.quiet)
    chat = Chat(engine, options.sampling, system_prompt=system_prompt)
    interactive = sys.stdin.isatty()
    if interactive:
        _load_readline()
        say(HELP)
    return talk(chat, interactive=interactive)


class Chat:
    """A conversation: the messages so far, and how to get the next one."""

    def __init__(self, engine: LLMEngine, params: SamplingParams, *, system_prompt: str | None = None) -> None:
        self._engine = engine
        self._params = params
        self._opening = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self.messages = list(self._opening)

    def reset(self) -> None:
        self.messages = list(self._opening)

    def ask(self, text: str) -> bool:
        """Write the answer as it comes; it joins the conversation, cut short by ctrl-C too (then False is returned).

        Raises RequestError, with the conversation as it was, where the answer cannot be begun.
        """
        from jaxpaged.outputs import OutputKind

        engine, tokenizer = self._engine, self._engine.tokenizer
        messages = [*self.messages, {"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        ids = list(tokenizer.encode(prompt, add_special_tokens=False))
        request_id = engine.submit(ids, self._params, output_kind=OutputKind.DELTA)
        answer: list[str] = []
        completed = True
        try:
            while engine.has_unfinished:
                for output in engine.step():
                    write(output.outputs[0].text)
                    answer.append(output.outputs[0].text)
                    if output.error:
                        say(f"error: {output.error}")
        except KeyboardInterrupt:
            completed = False
        finally:
            engine.abort(request_id)  # nothing, where it has ended
        if not completed and engine.pool_is_lost:
            engine.rebuild_pool()
        write("\n")
        self.messages = [*messages, {"role": "assistant", "content": "".join(answer)}]
        return completed


def talk(chat: Chat, *, interactive: bool) -> int:
    """Read lines until the end of input or /exit; returns the exit status."""
    while True:
        try:
            text = input("> " if interactive else "").strip()
        except EOFError:
            if interactive:
                write("\n")
            return 0
        except KeyboardInterrupt:
            if not interactive:
                raise
            write("\n")
            continue
        match text:
            case "":
                continue
            case "/exit" | "/quit":
                return 0
            case "/reset":
                chat.reset()
                say("the conversation is forgotten")
            case "/help":
                say(HELP)
            case _:
                try:
                    if not chat.ask(checked_text(text, "message")) and not interactive:
                        raise KeyboardInterrupt
                except RequestError as error:
                    say(f"error: {error}. /reset begins a new conversation")


def _load_readline() -> None:
    """Line editing and history for `input`, where the platform has it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
