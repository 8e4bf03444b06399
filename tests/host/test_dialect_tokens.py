"""Markup that a model has special tokens for: it is in the text that parsers read, other special tokens are not."""

from __future__ import annotations

import tokenizers
from dialect_cases import TOOLS, calls_of, read
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from jaxpaged.detokenize import Detokenizer
from jaxpaged.dialects.dialect import Dialect, dialect_of
from jaxpaged.tokenize import Tokenizer

MARKUP = ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]")
OTHERS = ("<s>", "</s>", "[INST]")
TEXT = '[INST][THINK]Which?[/THINK]See.[TOOL_CALLS]now[ARGS]{"a": 1}</s>'


def tokenizer() -> Tokenizer:
    """Bytes, and special tokens."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(letters, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in (*MARKUP, *OTHERS)])
    return Tokenizer(backend)


def text_of(made: Tokenizer, dialect: Dialect, ids: list[int]) -> str:
    shown = made.ids_within(dialect.marks)
    detokenizer = Detokenizer(made, shown=shown)
    return "".join(detokenizer.push(token) for token in ids) + detokenizer.flush()


def test_the_text_has_the_markup_of_the_dialect_and_no_other() -> None:
    made = tokenizer()
    ids = made.encode(TEXT, add_special_tokens=False)
    assert len(ids) < len(TEXT), "the special tokens are single ones"
    both = dialect_of(tool_call_parser="mistral", reasoning_parser="mistral")
    seen = text_of(made, both, ids)
    assert seen == TEXT.replace("[INST]", "").replace("</s>", "")
    message = read(both.parser(TOOLS, prompt=""), seen)
    assert (message.reasoning, message.content) == ("Which?", "See.")
    assert calls_of(message) == [("now", {"a": 1})]
    calls = dialect_of(tool_call_parser="mistral", reasoning_parser=None)
    assert text_of(made, calls, ids) == 'Which?See.[TOOL_CALLS]now[ARGS]{"a": 1}'
    assert text_of(made, Dialect(), ids) == made.decode(ids)


def test_a_mark_of_several_tokens_shows_each() -> None:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.add_special_tokens(["<|action_start|>", "<|plugin|>", "<|action_end|>", "<|interpreter|>", "<eos>"])
    made = Tokenizer(backend)
    shown = made.ids_within(dialect_of(tool_call_parser="internlm", reasoning_parser=None).marks)
    names = sorted(made.token_strings(sorted(shown)))
    assert names == ["<|action_end|>", "<|action_start|>", "<|plugin|>"]
