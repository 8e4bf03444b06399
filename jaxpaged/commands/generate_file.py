"""A file of prompts in, a file of results out: `jaxpaged generate --input --output`.

Owns the order of things: nothing is computed before the output file is known to belong to this input and these
settings; the input is read as the engine takes it, so that a large file costs no memory.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from jaxpaged.commands.generate import SOME_FAILED, GenerateOptions
from jaxpaged.commands.journal import Journal
from jaxpaged.commands.prompts import PromptLine, digest_of, parse_line, read_lines
from jaxpaged.commands.terminal import progress_options, say, start_engine
from jaxpaged.config import EngineConfig
from jaxpaged.errors import EngineError, OutputError, PromptError, RequestError, TokenizerError
from jaxpaged.request import Logprob, RequestOutput, SamplingParams

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine

_AHEAD = 2  # requests given to the engine, as a multiple of what one step takes


def generate_file(options: GenerateOptions, *, input_path: Path, output_path: Path) -> int:
    """Do the lines of the input that the output does not hold yet. Returns the exit status.

    Raises OutputError and ConfigError for the files, and what the engine raises.
    """
    settings = settings_digest(options.engine, options.sampling)
    if output_path.exists() and output_path.samefile(input_path):
        raise OutputError(name="--output", value=str(output_path), limit="it is the input", fix="Give another file")
    num_lines = sum(1 for _ in read_lines(input_path))
    with Journal(output_path) as journal:
        if journal.num_repaired_bytes and not options.quiet:
            say(
                f"{output_path}: cut off {journal.num_repaired_bytes} bytes of a row that an earlier run did not finish"
            )
        todo = check_resume(journal, read_lines(input_path), settings)
        if not todo:
            say(f"{output_path}: all {num_lines} lines are done")
            return SOME_FAILED if journal.failed else 0
        if len(todo) < num_lines and not options.quiet:
            say(f"{output_path}: {num_lines - len(todo)} of {num_lines} lines are done; going on with the rest")
        engine = start_engine(options.engine, quiet=options.quiet)
        lines = (
            parse_line(index, content, options.sampling, seed=options.engine.seed)
            for index, content in read_lines(input_path)
            if index in todo
        )
        with tqdm(total=len(todo), unit="request", **progress_options(quiet=options.quiet)) as bar:
            try:
                FileRun(engine, journal, settings=settings, bar=bar).run(lines)
            except BaseException:
                bar.close()
                say(f"stopped: {output_path} holds {len(journal.done)} of {num_lines} rows; the same command goes on")
                raise
        if not options.quiet:
            say(f"{output_path}: {num_lines} rows, {len(journal.failed)} of them errors")
        return SOME_FAILED if journal.failed else 0


def settings_digest(config: EngineConfig, params: SamplingParams) -> str:
    """What tells whether two runs would give the same rows: the options that change tokens, not those of speed."""
    chosen = {
        "model": str(Path(config.model).resolve()),
        "tokenizer": str(Path(config.tokenizer).resolve()) if config.tokenizer else None,
        "dtype": config.dtype,
        "quantization": config.quantization,
        "kv_cache_dtype": config.kv_cache_dtype,
        "max_model_len": config.max_model_len,
        "seed": config.seed,
        "reasoning_config": sorted(config.reasoning_config.items()),
        "sampling": sorted((name, repr(value)) for name, value in asdict(params).items()),
    }
    return hashlib.sha256(repr(sorted(chosen.items())).encode()).hexdigest()[:12]


def check_resume(journal: Journal, lines: Iterable[tuple[int, bytes]], settings: str) -> set[int]:
    """Indices of the lines to do. An error row whose line was mended since is done again.

    Raises OutputError where a row answers another line, or was made with other settings.
    """
    todo: set[int] = set()
    known: set[int] = set()
    for index, content in lines:
        known.add(index)
        recorded = journal.done.get(index)
        digest = f"{settings}:{digest_of(content)}"
        if recorded is None or (recorded != digest and index in journal.failed):
            todo.add(index)
        elif recorded != digest:
            same_line = recorded.endswith(digest.partition(":")[2])
            what = "the model, the seed or the sampling options differ" if same_line else "the line has changed since"
            raise _refused(journal, index, f"its row of input line {index + 1} would come out otherwise: {what}")
    if strangers := sorted(set(journal.done) - known):
        raise _refused(
            journal, strangers[0], f"it holds a row of line {strangers[0] + 1}, and the input has no such line"
        )
    return todo


def _refused(journal: Journal, index: int, why: str) -> OutputError:
    return OutputError(
        name=f"--output, row of index {index},", value=str(journal.path), limit=why, fix="Give another --output"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _InFlight:
    line: PromptLine
    prompt: str | None


class FileRun:
    """One pass over lines: keeps the engine fed, writes each row as its request ends."""

    def __init__(self, engine: LLMEngine, journal: Journal, *, settings: str, bar: tqdm) -> None:
        self._engine = engine
        self._journal = journal
        self._settings = settings
        self._bar = bar
        self._in_flight: dict[str, _InFlight] = {}
        self._tokens_in = self._tokens_out = 0

    def run(self, lines: Iterator[PromptLine]) -> None:
        """Do all lines. On the way out, whatever happened, no request of this run is left in the engine."""
        ahead = max(1, _AHEAD * self._engine.config.max_num_seqs)
        try:
            while True:
                for line in islice(lines, max(0, ahead - len(self._in_flight))):
                    self._begin(line)
                if not self._in_flight:
                    return
                if not self._engine.has_unfinished:
                    raise EngineError(
                        name="requests without an end", value=sorted(self._in_flight), limit="every request must end"
                    )
                for output in self._engine.step():
                    self._finish(output)
        finally:
            for request_id in self._in_flight:
                self._engine.abort(request_id)

    def _begin(self, line: PromptLine) -> None:
        from jaxpaged.outputs import OutputKind

        try:
            if line.error is not None:
                raise line.error
            prompt, content = self._content(line)
            request_id = self._engine.submit(content, line.params, output_kind=OutputKind.FINAL_ONLY)
            self._in_flight[request_id] = _InFlight(line=line, prompt=prompt)
        except RequestError as error:
            self._write_error(line, str(error))

    def _content(self, line: PromptLine) -> tuple[str | None, str | list[int]]:
        """The prompt as text where there is one, and what to submit."""
        if line.token_ids is not None:
            return None, list(line.token_ids)
        if line.text is not None:
            return line.text, line.text
        tokenizer = self._engine.tokenizer
        try:
            text = tokenizer.apply_chat_template(list(line.messages or ()), add_generation_prompt=True)
        except TokenizerError as error:  # the model's fault, but no line with a prompt of its own needs a template
            raise PromptError(name="messages", value=list(line.messages or ()), limit=str(error)) from error
        return text, list(tokenizer.encode(text, add_special_tokens=False))

    def _finish(self, output: RequestOutput) -> None:
        begun = self._in_flight.pop(output.request_id, None)
        if begun is None:
            return
        completion = output.outputs[0]
        row: dict[str, Any] = {
            "index": begun.line.index,
            "id": begun.line.id,
            "prompt": begun.prompt,
            "text": completion.text,
            "token_ids": list(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "num_prompt_tokens": len(output.prompt_token_ids),
        }
        if completion.logprobs is not None:
            row["logprobs"] = [_logprobs(entry) for entry in completion.logprobs]
        if len(output.outputs) > 1:
            row["answers"] = [
                {"text": each.text, "token_ids": list(each.token_ids), "finish_reason": each.finish_reason}
                for each in output.outputs
            ]
        if output.prompt_logprobs is not None:
            row["prompt_logprobs"] = [entry and _logprobs(entry) for entry in output.prompt_logprobs]
        if output.error:
            row["error"] = output.error
            self._report(begun.line, output.error)
        self._tokens_in += len(output.prompt_token_ids)
        self._tokens_out += sum(len(each.token_ids) for each in output.outputs)
        self._write(begun.line, row)

    def _write_error(self, line: PromptLine, error: str) -> None:
        self._report(line, error)
        row = {
            "index": line.index,
            "id": line.id,
            "prompt": line.text,
            "text": "",
            "token_ids": [],
            "finish_reason": "error",
            "num_prompt_tokens": 0,
            "error": error,
        }
        self._write(line, row)

    def _write(self, line: PromptLine, row: Mapping[str, Any]) -> None:
        self._journal.write({**row, "digest": f"{self._settings}:{line.digest}"})
        self._bar.update()
        elapsed_s = max(self._bar.format_dict["elapsed"], 1e-9)
        self._bar.set_postfix_str(
            f"in {self._tokens_in / elapsed_s:.1f}, out {self._tokens_out / elapsed_s:.1f} tokens/s", refresh=False
        )

    def _report(self, line: PromptLine, error: str) -> None:
        self._bar.write(f"error: input line {line.index + 1}: {' '.join(error.split())}", file=sys.stderr)


def _logprobs(entry: Mapping[int, Logprob]) -> dict[str, dict[str, Any]]:
    return {
        str(token): {item.name: getattr(logprob, item.name) for item in fields(Logprob)}
        for token, logprob in entry.items()
    }
