"""`jaxpaged generate`: complete prompts from the command line, or a file of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxpaged.commands.flags import EngineFlags, OptionalPath, SamplingFlags, Switch, given_fields, parse
from jaxpaged.commands.terminal import checked_text, for_few, say, start_engine, write
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.request import SamplingParams
from jaxpaged.sampling_defaults import sampling_defaults
from jaxpaged.weights.source import localised

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine

SOME_FAILED = 1
"""Exit status where some requests ended in an error and the others are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """Complete prompts. Texts go to stdout; the start-up table and progress to stderr.

    With --input and --output it completes a file of JSON lines; a stopped run goes on when started again.
    """

    prompts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT", help_behavior_hint="")
    ] = ()
    """Texts to continue; "-" reads one from stdin."""
    input: OptionalPath = None
    """File of prompts, a JSON value a line: a string, or an object with "prompt", "messages" or "prompt_token_ids"."""
    output: OptionalPath = None
    """File for the results, one JSON object a line. Rows it already holds are not done again."""
    quiet: Switch = False
    """No start-up table and no progress."""
    engine: EngineFlags = field(default_factory=lambda: EngineConfig(warmup=False))
    """As in `LLM(...)`; names and meanings are vLLM's."""
    sampling: SamplingFlags = field(default_factory=lambda: SamplingParams(temperature=0.7, top_p=0.95, max_tokens=128))
    """As in `SamplingParams(...)`; the model's generation_config.json comes before the defaults here."""

    def check(self) -> None:
        """Raise ConfigError where the options do not go together."""
        if (self.input is None) != (self.output is None):
            missing = "--output" if self.output is None else "--input"
            raise ConfigError(name=missing, value=None, limit="--input and --output go together")
        if bool(self.prompts) == (self.input is not None):
            raise ConfigError(
                name="prompts",
                value=list(self.prompts),
                limit="give either prompts, or --input and --output",
                fix='As in: jaxpaged generate "def fibonacci(n):"',
            )


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(GenerateOptions, argv, prog="jaxpaged generate")
    options.check()
    said = given_fields(SamplingParams, argv)
    options = replace(options, engine=localised(options.engine, progress=not options.quiet))
    options = replace(options, sampling=sampling_defaults(options.engine).fill(options.sampling, said=said))
    if options.input is not None and options.output is not None:
        from jaxpaged.commands.generate_file import generate_file

        return generate_file(options, input_path=options.input, output_path=options.output)
    prompts = [_prompt(prompt) for prompt in options.prompts]
    engine = start_engine(for_few(options.engine, len(prompts)), quiet=options.quiet)
    return complete(engine, prompts, options.sampling, quiet=options.quiet)


def complete(engine: LLMEngine, prompts: Sequence[str], params: SamplingParams, *, quiet: bool) -> int:
    """Complete all prompts at once and write each with its text in the order given, as it grows.

    Every prompt is checked before the first is begun: raises RequestError. Returns the exit status.
    """
    from jaxpaged.outputs import OutputKind

    for prompt in prompts:
        engine.check(prompt, params)
    ids = [engine.submit(prompt, params, output_kind=OutputKind.DELTA) for prompt in prompts]
    page = _Page(ids, prompts)
    began_s, num_tokens, errors = perf_counter(), 0, 0
    try:
        page.open()
        while engine.has_unfinished:
            for output in engine.step():
                completion = output.outputs[0]
                num_tokens += len(completion.token_ids)
                page.add(output.request_id, completion.text, finished=output.finished)
                if output.error:
                    errors += 1
                    say(f"error: prompt {ids.index(output.request_id) + 1}: {output.error}")
    except BaseException:
        for request_id in ids:
            engine.abort(request_id)
        write("\n")
        raise
    if not quiet:
        spent_s = perf_counter() - began_s
        say(f"{num_tokens} tokens in {spent_s:.2f} s ({num_tokens / max(spent_s, 1e-9):.1f} tokens/s)")
    return SOME_FAILED if errors else 0


class _Page:
    """Texts that grow side by side, written one after the other. The first unfinished one streams; later ones wait."""

    def __init__(self, ids: Sequence[str], prompts: Sequence[str]) -> None:
        self._waiting = {request_id: [prompt] for request_id, prompt in zip(ids, prompts, strict=True)}
        self._finished: set[str] = set()
        self._order = list(ids)
        self._at = 0

    def open(self) -> None:
        self._write_what_is_due()

    def add(self, request_id: str, text: str, *, finished: bool) -> None:
        self._waiting[request_id].append(text)
        if finished:
            self._finished.add(request_id)
        self._write_what_is_due()

    def _write_what_is_due(self) -> None:
        while self._at < len(self._order):
            current = self._order[self._at]
            if text := "".join(self._waiting[current]):
                write(text)
            self._waiting[current].clear()
            if current not in self._finished:
                return
            self._at += 1
            write("\n\n" if self._at < len(self._order) else "\n")


def _prompt(word: str) -> str:
    if word != "-":
        return checked_text(word)
    return checked_text(sys.stdin.buffer.read().decode("utf-8", "surrogateescape"), "stdin")
