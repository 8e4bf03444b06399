"""POST /tokenize, POST /detokenize, GET /tokenizer_info."""

from __future__ import annotations

from aiohttp import web

from jaxpaged.errors import ParameterError, PromptError
from jaxpaged_server.api.tokens import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfoReply,
)
from jaxpaged_server.body import read_struct
from jaxpaged_server.reply import json_reply
from jaxpaged_server.routes.chat import render_chat
from jaxpaged_server.routes.sampling import deadline_of
from jaxpaged_server.routes.tools import shown_tools
from jaxpaged_server.services import key_of, services_of


async def tokenize(request: web.Request) -> web.Response:
    """Token ids of a prompt or a conversation."""
    services, key = services_of(request), key_of(request)
    body = await read_struct(request, TokenizeRequest)
    services.model(body.model)
    info = services.info()
    if (body.prompt is None) == (body.messages is None):
        limit = "give either a prompt or messages"
        raise ParameterError(name="prompt", value=body.prompt, limit=limit)
    async with services.deadline(deadline_of(services, request)):
        if body.messages is not None:
            text = await render_chat(
                services,
                key,
                body.messages,
                add_generation_prompt=body.add_generation_prompt,
                continue_final_message=bool(body.continue_final_message),
                variables=body.chat_template_kwargs,
                tools=shown_tools(body.tools) if body.tools else None,
            )
            special = bool(body.add_special_tokens)
        else:
            assert body.prompt is not None
            text, special = body.prompt, True if body.add_special_tokens is None else body.add_special_tokens
            services.text.check_length(len(text), info.max_model_len)
        ids = await services.text.encode(key, text, add_special_tokens=special)
        strings = await services.text.spellings(key, ids) if body.return_token_strs else None
    reply = TokenizeReply(count=len(ids), max_model_len=info.max_model_len, tokens=ids, token_strs=strings)
    return json_reply(reply)


async def detokenize(request: web.Request) -> web.Response:
    """The text of token ids."""
    services = services_of(request)
    body = await read_struct(request, DetokenizeRequest)
    services.model(body.model)
    vocab = services.info().vocab
    worst = max(body.tokens, default=0)
    if worst >= vocab:
        raise PromptError(name="tokens", value=worst, limit=f"the model's token ids go from 0 to {vocab - 1}")
    async with services.deadline(deadline_of(services, request)):
        text = await services.text.decode(key_of(request), body.tokens)
    return json_reply(DetokenizeReply(prompt=text))


async def tokenizer_info(request: web.Request) -> web.Response:
    """What a client needs to count tokens by itself."""
    services = services_of(request)
    info, tokenizer = services.info(), services.text.tokenizer
    special = tokenizer.special_tokens
    return json_reply(
        TokenizerInfoReply(
            tokenizer_class="PreTrainedTokenizerFast",
            vocab_size=tokenizer.vocab_size,
            model_max_length=info.max_model_len,
            eos_token_ids=list(tokenizer.eos_ids),
            special_tokens=special,
            chat_template=services.text.template,
            bos_token=special.get("bos_token"),
            eos_token=special.get("eos_token"),
            pad_token=special.get("pad_token"),
        )
    )
