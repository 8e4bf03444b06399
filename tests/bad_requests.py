"""What must be refused, and how it is: run as a program, it prints that of its own Python, which may be one that leaves
assertions out."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxpaged_server.access.keys import Keys
from jaxpaged_server.settings import ServerConfig
from served import served

from jaxpaged.config import EngineConfig
from jaxpaged.prompt import check_prompt, prompt_ids
from jaxpaged.request import SamplingParams
from jaxpaged.tokenize import Tokenizer
from jaxpaged.weights.folder import read_json

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "a"}]
PROMPTS = (
    *("", [], [""], [[]], [-1], [4096], [2**31], [2**63], [1.5], [True], 5, None, {}),
    *(["a", 1], [[1], "a"], [[[1]]], [1] * 256, ["a"] * 33),
)
FIELDS: dict[str, tuple[Any, ...]] = {
    "n": (0, -1, 9, 1.5, "1", True),
    "max_tokens": (0, -1, 256, 2**31, 10**400),
    "min_tokens": (17,),
    "temperature": (-1, 101, "1", []),
    "stop_token_ids": ([-1], [4096], [2**31]),
    "logit_bias": ({"4096": 1}, {"-1": 1}, {"1": 101}, {"9999999999": 1}),
    "stop": ([""], [1], ["a"] * 17, "a" * 257),
    "stream_options": ({"include_usage": True},),
    "cache_salt": ("a b",),
    "model": ("other",),
    "tools": ([],),
    "allowed_token_ids": ([], [-1], [4096]),
    "bad_words": ([""], [1]),
    "truncate_prompt_tokens": (0, -2),
    "repetition_detection": ({"max_pattern_size": 2}, {"a": 1}),
    "structured_outputs": ({}, {"regex": "("}, {"json": {"not": {}}}, {"choice": []}, {"grammar": "a"}, {"json": 5}),
    "response_format": ({}, {"type": "xml"}, {"type": "json_schema"}, {"type": "structural_tag"}),
}
CONVERSATIONS: tuple[dict[str, Any], ...] = (
    *({"messages": messages} for messages in ([], None, [{}], [{"role": "other"}], [{"role": "user", "content": 5}])),
    {"messages": HELLO, "chat_template": "{{ 1 }}"},
    *({"messages": HELLO, "chat_template_kwargs": {name: 1}} for name in ("self", "tokenize", "messages", "a b")),
    {"messages": HELLO, "continue_final_message": True, "add_generation_prompt": True},
    {"messages": HELLO, "top_logprobs": 2},
)
BODIES: tuple[tuple[str, Any], ...] = (
    (COMPLETIONS, []),
    *((COMPLETIONS, {"prompt": prompt}) for prompt in PROMPTS),
    *((COMPLETIONS, {"prompt": "a", name: value}) for name, values in FIELDS.items() for value in values),
    *((CHAT, body) for body in CONVERSATIONS),
    *(("/tokenize", body) for body in ({}, {"prompt": "a", "messages": HELLO}, {"prompt": 5})),
    *(("/detokenize", {"tokens": tokens}) for tokens in ([-1], [4096], ["a"], 5)),
)
RAW = (b"", b"{", b"\xff", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b'{"a": 1, "a": 1}', b"[" * 100_000)
HEADERS: tuple[dict[str, str], ...] = (
    {"Origin": "http://["},
    {"Host": "evil.example"},
    {"X-Request-Timeout": "nan"},
    {"Content-Type": "text/plain"},
    {"Content-Encoding": "gzip"},
)


async def statuses() -> list[str]:
    """Of each bad request: its status and its reply. At last how many the engine got."""
    told = []
    async with served() as it:

        async def send(path: str, data: bytes, headers: dict[str, str]) -> None:
            headers = {"Content-Type": "application/json", **headers}
            async with it.client.post(path, data=data, headers=headers) as response:
                told.append(f"{response.status} {await response.text()}")

        for path, body in BODIES:
            await send(path, json.dumps(body).encode(), {})
        for data in RAW:
            await send(COMPLETIONS, data, {})
        for headers in HEADERS:
            await send(COMPLETIONS, b'{"prompt": "a", "max_tokens": 1}', headers)
        told.append(f"{len(it.engine.streams)} were let in")
    return told


def refusals(folder: Path) -> list[str]:
    """Of each thing that cannot be, given to the package itself: the error's class and message."""
    (folder / "keys.yaml").write_text("keys: [{name: a, key: k}]")
    (folder / "keys.yaml").chmod(0o644)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text('{"a": 1, "a": 1}')

    def identity(text: str) -> list[int]:
        return [ord(text)]

    calls: tuple[Callable[[], object], ...] = (
        *(lambda ids=ids: check_prompt(ids, ids, vocab=10, max_model_len=4) for ids in ((), (-1,), (10,), (1,) * 4)),
        *(lambda prompt=prompt: prompt_ids(prompt, identity) for prompt in (b"a", {}, 5, [True], [1.0], ["a"])),
        lambda: SamplingParams(temperature=float("nan")),
        lambda: SamplingParams(logit_bias={-1: 1.0}),
        lambda: SamplingParams(min_tokens=2, max_tokens=1),
        lambda: EngineConfig(max_num_seqs=0),
        lambda: EngineConfig(max_model_len=-1),
        lambda: ServerConfig(port=70_000),
        lambda: ServerConfig(allowed_origins=("a",)),
        lambda: Keys(file=folder / "keys.yaml"),
        lambda: Keys(plain=["two words"]),
        lambda: Tokenizer.load(folder),
        lambda: read_json(folder / "config.json", fix="none"),
    )
    told = []
    for call in calls:
        try:
            told.append(f"taken: {call()!r}")
        except Exception as error:
            told.append(f"{type(error).__name__} {error}".replace(str(folder), "FOLDER"))
    return told


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = {"debug": __debug__, "statuses": asyncio.run(statuses()), "refusals": refusals(Path(folder))}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
