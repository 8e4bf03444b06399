"""Model folders with small tokenizers of every kind but tokenizer.json, and what else tells their ids."""

from __future__ import annotations

import base64
import io
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import tiktoken
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, trainers

from jaxpaged.tokenizer_files.byte_level import LLAMA_3, QWEN, alphabet

Encode = Callable[[str], list[int]]
TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LINES = [
    "The tokenizer of an older folder reads the same text, and gives the same ids.",
    "  for i in range(10):\n\n        print(i, 'a', '=')\t# don't you've I'll",
    "Übergröße façade naïve éàü; 日本語のテキスト 中文 한국어 العربية; 🙂👨‍👩‍👧 12345 ２３",
    "<s>[INST] the the the [/INST]</s> <|im_start|>user and more of the text, and of the folder",
] * 3
_RUNS = ["aaaaaaaaa ==== ========\n\n\n\n\t\t\t        "] * 3
"""Not for unigrams: where a run is cut in two has no best answer."""
_CHARACTERS_KEPT = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """path: of a folder that `Tokenizer.load` shall read. encode: the ids of plain text, without any around it.

    special: a special token of it, and its id.
    """

    path: Path
    encode: Encode
    special: tuple[str, int]


def pieces_file(**options: Any) -> bytes:
    """A small SentencePiece model."""
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_LINES),
        model_writer=writer,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        character_coverage=_CHARACTERS_KEPT,
        **options,
    )
    return writer.getvalue()


@cache
def ranks() -> tuple[bytes, ...]:
    """Tokens of a byte-level BPE by rank."""
    backend, characters = tokenizers.Tokenizer(models.BPE()), alphabet()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=list(characters), show_progress=False)
    backend.train_from_iterator([*_LINES, *_RUNS], trainer)
    vocab = backend.get_vocab()
    return tuple(bytes(characters[one] for one in text) for text in sorted(vocab, key=vocab.__getitem__))


def write(folder: Path, **files: Any) -> Path:
    """Write objects as JSON files by name, tokenizer_config for tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def by_pieces(folder: Path, *, name: str = "tokenizer.model", config: Any = None, **options: Any) -> Folder:
    """A folder with a SentencePiece model alone; that library is asked for the ids."""
    write(folder, **({"tokenizer_config": config} if config else {}))
    proto = pieces_file(**options)
    (folder / name).write_bytes(proto)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=proto)
    return Folder(path=folder, encode=oracle.encode, special=("</s>", oracle.piece_to_id("</s>")))


def llama(folder: Path) -> Folder:
    options: dict[str, Any] = {"vocab_size": 500, "byte_fallback": True, "normalization_rule_name": "identity"}
    return by_pieces(folder, model_type="bpe", remove_extra_whitespaces=False, **options)


def gemma(folder: Path) -> Folder:
    defined = ["\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<start_of_turn>"]
    options: dict[str, Any] = {"vocab_size": 500, "byte_fallback": True, "normalization_rule_name": "identity"}
    ids: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    spaces: dict[str, Any] = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
    return by_pieces(folder, model_type="bpe", user_defined_symbols=defined, **options, **ids, **spaces)


def defined(folder: Path) -> Folder:
    """User-defined pieces in a model whose texts begin with a space."""
    options: dict[str, Any] = {"vocab_size": 500, "byte_fallback": True, "normalization_rule_name": "identity"}
    symbols = ["<sep>", "[a]", "\n"]
    return by_pieces(folder, model_type="bpe", user_defined_symbols=symbols, remove_extra_whitespaces=False, **options)


def t5(folder: Path) -> Folder:
    config = {"tokenizer_class": "T5Tokenizer"}
    ids: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    return by_pieces(folder, name="spiece.model", config=config, model_type="unigram", vocab_size=300, **ids)


def unigram_of_bytes(folder: Path) -> Folder:
    options: dict[str, Any] = {"vocab_size": 500, "byte_fallback": True, "normalization_rule_name": "identity"}
    return by_pieces(folder, model_type="unigram", **options)


def by_ranks(pattern: str, special: Sequence[str] = (), *, first_id: int = 0) -> tiktoken.Encoding:
    """tiktoken's own encoding of `ranks()`, its special tokens after them."""
    mergeable = {token: first_id + i for i, token in enumerate(ranks())}
    ids = {text: len(mergeable) + i for i, text in enumerate(special)}
    return tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=mergeable, special_tokens=ids)


def write_ranks(path: Path) -> None:
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), i) for i, token in enumerate(ranks())))


def tekken(folder: Path, *, version: str = "v3", special: Any = None) -> Folder:
    count, unused = 25, 7
    config = {"pattern": TEKKEN_PATTERN, "default_num_special_tokens": count, "version": version}
    config |= {"num_vocab_tokens": len(ranks()), "default_vocab_size": count + len(ranks()) - unused}
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for i, token in enumerate(ranks())
    ]
    told = {"config": config, "vocab": vocab, **({"special_tokens": special} if special else {})}
    write(folder, tekken=told)
    kept = {token: i for i, token in enumerate(ranks()[:-unused])}
    oracle = tiktoken.Encoding("small", pat_str=TEKKEN_PATTERN, mergeable_ranks=kept, special_tokens={})
    return Folder(
        path=folder, encode=lambda text: [count + i for i in oracle.encode_ordinary(text)], special=("[INST]", 3)
    )


def qwen(folder: Path) -> Folder:
    write(folder, config={"model_type": "qwen"})
    write_ranks(folder / "qwen.tiktoken")
    oracle = by_ranks(QWEN)
    return Folder(
        path=folder,
        encode=lambda text: oracle.encode_ordinary(unicodedata.normalize("NFC", text)),
        special=("<|im_start|>", len(ranks()) + 1),
    )


def llama_3(folder: Path) -> Folder:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    declared = {str(len(ranks()) + i): {"content": text, "special": True} for i, text in enumerate(names)}
    config = {"bos_token": names[0], "eos_token": names[1], "added_tokens_decoder": declared, "add_bos_token": True}
    write(folder, config={"model_type": "llama"}, tokenizer_config=config)
    write_ranks(folder / "tokenizer.model")
    return Folder(path=folder, encode=by_ranks(LLAMA_3).encode_ordinary, special=(names[2], len(ranks()) + 2))


def by_merges(folder: Path, *, special: str, **config: Any) -> Folder:
    """A folder with vocab.json and merges.txt; transformers is asked for the ids."""
    spelled = {byte: one for one, byte in alphabet().items()}
    texts = ["".join(map(spelled.__getitem__, token)) for token in ranks()]
    at = {text: i for i, text in enumerate(texts)}
    merges = [
        next((text[:cut], text[cut:]) for cut in range(1, len(text)) if text[:cut] in at and text[cut:] in at)
        for text in texts
        if len(text) > 1
    ]
    write(folder, vocab=at | {special: len(at)}, **({"tokenizer_config": config} if config else {}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    name = config.get("tokenizer_class", "GPT2Tokenizer")
    oracle = getattr(transformers, name).from_pretrained(folder)
    return Folder(
        path=folder,
        encode=lambda text: oracle.encode(text, add_special_tokens=False, split_special_tokens=True),
        special=(special, len(at)),
    )


def gpt2(folder: Path) -> Folder:
    return by_merges(folder, special="<|endoftext|>")


def opt(folder: Path) -> Folder:
    end = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": None}
    return by_merges(folder, special="</s>", tokenizer_class="GPT2Tokenizer", add_bos_token=True, **end)


def spaced(folder: Path) -> Folder:
    return by_merges(folder, special="<|endoftext|>", tokenizer_class="GPT2Tokenizer", add_prefix_space=True)


def qwen2(folder: Path) -> Folder:
    return by_merges(folder, special="<|endoftext|>", tokenizer_class="Qwen2Tokenizer")


KINDS: dict[str, Callable[[Path], Folder]] = {
    made.__name__: made
    for made in (llama, gemma, defined, t5, unigram_of_bytes, tekken, qwen, llama_3, gpt2, opt, spaced, qwen2)
}
"""How to make a folder of each kind, by name."""
