"""Offline generation: prompts in, texts out, in the order they came. vLLM's `LLM`, argument for argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from numbers import Integral
from typing import Any, cast

from tqdm import tqdm

from jaxpaged.beams import BeamSearchOutput, BeamSearchParams, BeamSearchSequence
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError, EngineError, JaxPagedError, ParameterError, PromptError
from jaxpaged.outputs import OutputKind
from jaxpaged.request import CompletionOutput, RequestOutput, SamplingParams

Prompt = str | Sequence[int] | Mapping[str, Any]
Message = Mapping[str, Any]


class LLM:
    """A model ready to generate. Options are those of `EngineConfig`; `LLM()` serves the bundled model.

    Raises ModelError and ConfigError (see `LLMEngine`).
    """

    def __init__(self, model: str | None = None, *, progress: bool = False, **options: Any) -> None:
        if model is not None:
            options["model"] = model
        known = [field.name for field in fields(EngineConfig)]
        for name, value in options.items():
            if name not in known:
                raise ConfigError(
                    name=name, value=value, limit="there is no such option", fix=f"Options are {', '.join(known)}"
                )
        self.engine = LLMEngine(EngineConfig(**options), progress=progress)

    def get_default_sampling_params(self) -> SamplingParams:
        """What `generate` and `chat` use without parameters: the model's own defaults, see `generation_config`."""
        return self.engine.default_params

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete each prompt: a text, a list of token ids, or {"prompt": ...} / {"prompt_token_ids": ...}.

        Every prompt is checked before the first step: a bad one raises RequestError and nothing is computed.
        """
        items = [_content(prompt, i) for i, prompt in enumerate(_as_list(prompts))]
        params = _broadcast(sampling_params, len(items), default=self.get_default_sampling_params())
        ids = self._checked(items, params)
        texts = [item if isinstance(item, str) else None for item in items]
        return self._run(list(zip(ids, texts, params, strict=True)), use_tqdm=use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, each a list of {"role": ..., "content": ...}.

        tools: shown to the model by its template, as in {"type": "function", "function": {"name": ..., "parameters":
        ...}}; what it calls is in the text as it writes it, which `dialects` can read.
        continue_final_message, without add_generation_prompt: the answer goes on with the last message.
        """
        several = bool(messages) and not isinstance(messages[0], Mapping)
        conversations = cast("Sequence[Sequence[Message]]", messages if several else [messages])
        tokenizer = self.engine.tokenizer
        variables = {**({"tools": list(tools)} if tools else {}), **(chat_template_kwargs or {})}
        prompts = [
            tokenizer.encode(
                tokenizer.apply_chat_template(
                    list(conversation),
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                    **variables,
                ),
                add_special_tokens=False,
            )
            for conversation in conversations
        ]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, *, use_tqdm: bool = False
    ) -> list[BeamSearchOutput]:
        """The likeliest sequences that begin with each prompt, as far as a search of `beam_width` beams finds them.

        Every prompt is checked before the first step, as in `generate`.
        """
        items = [_content(prompt, i) for i, prompt in enumerate(_as_list(prompts))]
        ids = self._checked(items, [params.sampling()] * len(items))
        found = self._run([(prompt, None, params) for prompt in ids], use_tqdm=use_tqdm)
        return [
            BeamSearchOutput(sequences=tuple(map(partial(self._sequence, params, one), one.outputs))) for one in found
        ]

    def _checked(self, items: Sequence[str | Sequence[int]], params: Sequence[SamplingParams]) -> list[tuple[int, ...]]:
        """The token ids of prompts. Raises what `LLMEngine.check` raises, with the prompt's place."""
        ids: list[tuple[int, ...]] = []
        for i, (item, param) in enumerate(zip(items, params, strict=True)):
            try:
                ids.append(self.engine.check(item, param))
            except JaxPagedError as error:
                error.add_note(f"in prompt {i} of {len(items)}")
                raise
        return ids

    def _sequence(self, params: BeamSearchParams, found: RequestOutput, said: CompletionOutput) -> BeamSearchSequence:
        if said.cumulative_logprob is None or found.error is not None:
            raise EngineError(name="beam search", value=found.request_id, limit=found.error or "it was ended")
        ended = said.finish_reason == "stop"
        answer = said.token_ids[:-1] if ended and not params.include_stop_str_in_output else said.token_ids
        tokens = (*found.prompt_token_ids, *answer)
        return BeamSearchSequence(
            tokens=tokens,
            logprobs=said.logprobs or (),
            cum_logprob=said.cumulative_logprob,
            text=self.engine.tokenizer.decode(tokens),
            finish_reason=said.finish_reason,
            stop_reason=said.token_ids[-1] if ended else None,
        )

    def _run(
        self,
        items: Sequence[tuple[tuple[int, ...], str | None, SamplingParams | BeamSearchParams]],
        *,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        """The outputs of (token ids, their text, parameters), in this order."""
        self.engine.require_idle("LLM.generate")
        ids: list[str] = []
        done: dict[str, RequestOutput] = {}
        bar = tqdm(total=len(items), desc="requests", unit="request", disable=not use_tqdm)
        tokens = 0
        try:
            for prompt, text, params in items:
                ids.append(self.engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY, text=text))
            while self.engine.has_unfinished:
                for output in self.engine.step():
                    done[output.request_id] = output
                    tokens += sum(len(said.token_ids) for said in output.outputs)
                    bar.update()
                    bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):.1f} tokens/s")
        except BaseException:
            for request_id in ids:
                self.engine.abort(request_id)
            raise
        finally:
            bar.close()
        missing = [request_id for request_id in ids if request_id not in done]
        if missing:
            raise EngineError(name="requests without an end", value=missing, limit="every request must end")
        return [done[request_id] for request_id in ids]


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if isinstance(prompts, bytes | bytearray) or not isinstance(prompts, Iterable):
        raise PromptError(name="prompts", value=prompts, limit="give a text, a list of token ids, or a list of these")
    items = list(prompts)
    if items and all(isinstance(item, Integral) for item in items):
        return [cast("Sequence[int]", items)]
    return cast("list[Prompt]", items)


def _content(prompt: Prompt, index: int) -> str | Sequence[int]:
    if isinstance(prompt, Mapping):
        for key in ("prompt_token_ids", "prompt"):
            if prompt.get(key) is not None:
                return prompt[key]
        raise PromptError(
            name=f"prompt {index}", value=dict(prompt), limit='it must have "prompt" or "prompt_token_ids"'
        )
    return prompt


def _broadcast(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int, *, default: SamplingParams
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or default] * count
    if len(params) != count:
        raise ParameterError(
            name="sampling_params", value=len(params), limit=f"give one, or one for each of the {count} prompts"
        )
    return list(params)
