"""Small tokenizers of every kind that the library has, as tokenizer.json says them, and parts to put into them."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TEXTS = ("", "a b", "hello <s> é日本🙂 ab</s>", "  a\n\tb 123", "a" * 40)
_WORDS = ["<unk>", "<s>", "</s>", "a", "b", "ab", "▁", "▁a", "##b", "h", "e", "l", "o", "é", "hello"]
_VOCAB = {word: i for i, word in enumerate(_WORDS)}


def seeds() -> list[dict[str, Any]]:
    """One of each model, with stages as real ones have them."""
    return [_whole(_byte_level()), _whole(_sentence_piece()), *map(_whole, _others())]


def parts() -> tuple[Any, ...]:
    """Normalizers, pre-tokenizers, post-processors and decoders, right ones and some that cannot be."""
    right = [
        *(
            normalizers.NFC(),
            normalizers.NFKD(),
            normalizers.Lowercase(),
            normalizers.StripAccents(),
            normalizers.Nmt(),
        ),
        *(normalizers.Strip(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"), normalizers.ByteLevel()),
        *(normalizers.BertNormalizer(), normalizers.Replace(Regex("a+"), "b"), normalizers.Sequence([])),
        *(pre_tokenizers.ByteLevel(), pre_tokenizers.Metaspace(), pre_tokenizers.Whitespace(), pre_tokenizers.Digits()),
        *(pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Punctuation(), pre_tokenizers.BertPreTokenizer()),
        *(pre_tokenizers.CharDelimiterSplit(" "), pre_tokenizers.UnicodeScripts(), pre_tokenizers.FixedLength(5)),
        *(processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)]), processors.ByteLevel()),
        *(processors.BertProcessing(("</s>", 2), ("<s>", 1)), processors.RobertaProcessing(("</s>", 2), ("<s>", 1))),
        *(decoders.ByteLevel(), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip("a", 1, 1), decoders.CTC()),
        *(decoders.WordPiece(), decoders.Metaspace(), decoders.BPEDecoder(), decoders.Replace("▁", " ")),
    ]
    wrong = [
        {"type": "FixedLength", "length": 0},
        {"type": "FixedLength", "length": 2**63},
        {"type": "Precompiled", "precompiled_charsmap": ""},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "Precompiled", "precompiled_charsmap": None},
        {"type": "Strip", "content": "a", "start": 2**40, "stop": 2**40},
        {"type": "Strip", "content": "a", "start": 3, "stop": 3},
        {"type": "Replace", "pattern": {"String": ""}, "content": "a" * 1000},
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "a"},
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
        {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 9},
        {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
    ]
    return (*(json.loads(part.__getstate__()) for part in right), *wrong)


def _byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)} | {"he": 256, "ll": 257, "hell": 258}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("h", "e"), ("l", "l"), ("he", "ll")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _with_special(backend)


def _sentence_piece() -> Tokenizer:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{i:02X}>": 3 + i for i in range(256)}
    vocab |= {word: 259 + i for i, word in enumerate(["▁", "a", "b", "▁a", "ab"])}
    merges = [("▁", "a"), ("a", "b")]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return _with_special(backend)


def _others() -> list[Tokenizer]:
    piece = Tokenizer(models.WordPiece(vocab=_VOCAB, unk_token="<unk>"))
    piece.normalizer, piece.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    piece.decoder, piece.post_processor = decoders.WordPiece(), processors.BertProcessing(("</s>", 2), ("<s>", 1))
    word = Tokenizer(models.WordLevel(vocab=_VOCAB, unk_token="<unk>"))
    word.pre_tokenizer = pre_tokenizers.Whitespace()
    unigram = Tokenizer(models.Unigram([(each, -float(i)) for i, each in enumerate(_WORDS)], unk_id=0))
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    bpe = Tokenizer(models.BPE(vocab=_VOCAB, merges=[("a", "##b")], unk_token="<unk>", continuing_subword_prefix="##"))
    return [_with_special(each) for each in (piece, word, unigram, bpe)]


def _with_special(backend: Tokenizer) -> Tokenizer:
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<s>", "</s>")])
    backend.add_tokens([AddedToken("<tool>", lstrip=True)])
    return backend


def _whole(backend: Tokenizer) -> dict[str, Any]:
    return json.loads(backend.to_str())
