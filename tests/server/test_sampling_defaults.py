"""What a request leaves unsaid has the model's defaults; what it says counts, but for the server's limit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from beats import engine_info
from jaxpaged_server.assembly import make_services
from jaxpaged_server.engine_process.wire import Frames, Ready, frame, front_decoder
from jaxpaged_server.settings import ServerConfig
from scripted_engine import INFO, ScriptedEngine
from served import Served, served

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.sampling_defaults import SamplingDefaults

VALUES = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.05, "max_tokens": 40}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "a"}]


@asynccontextmanager
async def serving(**fields: Any) -> AsyncIterator[Served]:
    engine = ScriptedEngine()
    engine.info = msgspec.structs.replace(INFO, sampling_defaults=SamplingDefaults(**fields))
    async with served(engine, chat_template=None) as it:
        yield it


async def params_of(it: Served, path: str = COMPLETIONS, **body: Any) -> Any:
    body = body if path == COMPLETIONS else {"messages": MESSAGES, **body}
    status, reply = await it.post(path, **({"prompt": [5, 6, 7], **body} if path == COMPLETIONS else body))
    assert status == 200, reply
    return it.engine.streams[-1].params


async def test_what_is_unsaid_has_the_models_defaults() -> None:
    async with serving(values=VALUES) as it:
        completion, chat = await params_of(it), await params_of(it, CHAT)
    for params in (completion, chat):
        assert {name: getattr(params, name) for name in VALUES if name != "max_tokens"} == {
            name: value for name, value in VALUES.items() if name != "max_tokens"
        }
    assert (completion.max_tokens, chat.max_tokens) == (16, 40)  # OpenAI's 16 is what completions say themselves


async def test_what_is_said_counts() -> None:
    said = {"temperature": 0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 60}
    async with serving(values=VALUES) as it:
        for path in (COMPLETIONS, CHAT):
            params = await params_of(it, path, **said)
            assert {name: getattr(params, name) for name in said} == said
        assert (await params_of(it, CHAT, max_completion_tokens=2)).max_tokens == 2


async def test_the_limit_holds_whatever_is_said() -> None:
    async with serving(values={"max_tokens": 7}, max_tokens_limit=7) as it:
        for body in ({}, {"max_tokens": 60}):
            for path in (COMPLETIONS, CHAT):
                assert (await params_of(it, path, **body)).max_tokens == 7
        assert (await params_of(it, CHAT, max_tokens=3)).max_tokens == 3
        _, reply = await it.post(COMPLETIONS, prompt=[5], max_tokens=60)
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 7)


async def test_a_default_is_cut_to_what_fits_and_a_wish_is_not() -> None:
    async with serving(values={"max_tokens": 10_000}) as it:
        _, reply = await it.post(CHAT, messages=MESSAGES)
        assert reply["usage"]["total_tokens"] == INFO.max_model_len
        status, reply = await it.post(CHAT, messages=MESSAGES, max_tokens=10_000)
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")


async def test_the_defaults_are_told() -> None:
    async with (
        serving(values=VALUES, max_tokens_limit=9, not_implemented=("num_beams=4",)) as it,
        it.client.get("/server_info") as response,
    ):
        told = (await response.json())["engine"]["sampling_defaults"]
    assert (told["values"], told["max_tokens_limit"], told["not_implemented"]) == (VALUES, 9, ["num_beams=4"])


async def test_the_front_end_reads_the_same_folder(tmp_path: Path) -> None:
    config = EngineConfig(generation_config=str(tmp_path))
    with pytest.raises(ConfigError, match=r"it has no generation_config\.json"):
        make_services(config, ServerConfig())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    services = make_services(config, ServerConfig())
    assert 7 in services.text.tokenizer.eos_ids
    await services.close()


def test_whole_numbers_stay_whole_on_the_wire() -> None:
    sent = Ready(engine_info(sampling_defaults=SamplingDefaults(values=VALUES, max_tokens_limit=9)))
    (body,) = Frames().push(frame(sent))
    got = front_decoder().decode(body)
    assert got == sent
    assert isinstance(got, Ready)
    whole = {name for name, value in got.info.sampling_defaults.values.items() if type(value) is int}
    assert whole == {"top_k", "max_tokens"}
