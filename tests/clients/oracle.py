"""What the engine says when no HTTP is between: `python oracle.py CASES LM_EVAL_FOLDER OUT`.

Writes one JSON object with the inputs of all clients and, beside each, what `LLM` answers. Clients compare what they
got with it, so that an answer which is well-formed and wrong fails them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpaged import LLM, SamplingParams, StructuredOutputsParams
from jaxpaged.request import Logprob


def main(cases_file: Path, folder: Path, out: Path) -> None:
    """Compute all of it with one engine, with the defaults that a server has too."""
    llm = LLM()
    cases = json.loads(cases_file.read_text())
    expected = {
        "max_tokens": cases["max_tokens"],
        "prompts": completions(llm, cases["prompts"], cases["max_tokens"]),
        "chat": chat(llm, cases["messages"], cases["max_tokens"]),
        "structured": structured(llm, cases["messages"], cases["schema"]),
        "choices": [scores(llm, **doc) for doc in json.loads((folder / "choices.json").read_text())],
        **lines(llm, [doc["context"] for doc in json.loads((folder / "lines.json").read_text())]),
    }
    out.write_text(json.dumps(expected, indent=1))


def completions(llm: LLM, prompts: Sequence[str], max_tokens: int) -> list[dict[str, Any]]:
    """Greedy answers, with the log probabilities of their tokens and of the prompts'."""
    params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=2, prompt_logprobs=2)
    return [
        {
            "text": text,
            "token_ids": list(output.prompt_token_ids),
            "token_logprobs": [None, *of_tokens(output.prompt_token_ids[1:], (output.prompt_logprobs or ())[1:])],
            "answer": output.outputs[0].text,
            "answer_ids": list(output.outputs[0].token_ids),
            "answer_logprobs": of_tokens(output.outputs[0].token_ids, output.outputs[0].logprobs or ()),
        }
        for text, output in zip(prompts, llm.generate(list(prompts), params, use_tqdm=False), strict=True)
    ]


def chat(llm: LLM, messages: Sequence[Mapping[str, str]], max_tokens: int) -> dict[str, Any]:
    """The greedy answer to one conversation."""
    (output,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=max_tokens), use_tqdm=False)
    return {
        "messages": messages,
        "prompt_tokens": len(output.prompt_token_ids),
        "answer": output.outputs[0].text,
        "answer_ids": list(output.outputs[0].token_ids),
        "finish_reason": output.outputs[0].finish_reason,
    }


def structured(llm: LLM, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The greedy answers of a form, and the token of a closing brace."""

    def said(**form: Any) -> str:
        params = SamplingParams(temperature=0, max_tokens=512, structured_outputs=StructuredOutputsParams(**form))
        (output,) = llm.chat(messages, params, use_tqdm=False)
        return output.outputs[0].text

    (brace,) = llm.engine.tokenizer.encode("}", add_special_tokens=False)
    return {"schema": schema, "json": said(json=schema), "choice": said(choice=["yes", "no"]), "brace": brace}


def scores(llm: LLM, *, context: str, choices: Sequence[str], gold: int) -> dict[str, Any]:
    """Of each choice: the log probability of its tokens after the context's, and whether all are the likeliest.

    As lm-eval splits them: a choice's tokens are those of both together past the number of the context's own.
    """
    encode = llm.engine.tokenizer.encode
    start = encode(context)
    prompts = [[*start, *encode(context + choice)[len(start) :]] for choice in choices]
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    rows: list[dict[str, Any]] = []
    for ids, output in zip(prompts, llm.generate(prompts, params, use_tqdm=False), strict=True):
        found = (output.prompt_logprobs or ())[len(start) :]
        rows.append(
            {
                "logprob": sum(of_tokens(ids[len(start) :], found)),
                "greedy": all(
                    (entry or {})[token].rank == 1 for token, entry in zip(ids[len(start) :], found, strict=True)
                ),
            }
        )
    best = max(range(len(rows)), key=lambda i: rows[i]["logprob"])
    return {"choices": rows, "right": best == gold}


def lines(llm: LLM, contexts: Sequence[str]) -> dict[str, list[str]]:
    """The greedy rest of each line, and the answer where it is the only message of a conversation."""
    rest, answer = (SamplingParams(temperature=0, max_tokens=24, stop=stop) for stop in ("\n", "###"))
    chats = [[{"role": "user", "content": context}] for context in contexts]
    return {
        "lines": [output.outputs[0].text for output in llm.generate(list(contexts), rest, use_tqdm=False)],
        "chat_lines": [output.outputs[0].text for output in llm.chat(chats, answer, use_tqdm=False)],
    }


def of_tokens(ids: Sequence[int], entries: Sequence[Mapping[int, Logprob] | None]) -> list[float]:
    """The log probabilities of these tokens at their places."""
    return [(entry or {})[token].logprob for token, entry in zip(ids, entries, strict=True)]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
