"""Byte-level BPE: every byte is a character of an alphabet of 256, and merges join those. [host half: no jax]

The alphabet is GPT-2's (Radford et al., 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.bounds import bounded_merges, check_special, check_tokens

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where Qwen's tokenizers cut a text before they merge."""
LLAMA_3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
"""Where Llama 3's do, and GLM-4's."""


def alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes: those that print are themselves, others 256 and up."""
    prints = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in prints]
    return {chr(byte): byte for byte in prints} | {chr(256 + i): byte for i, byte in enumerate(others)}


def byte_level_bpe(
    vocab: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    *,
    pattern: str | None = None,
    nfc: bool = False,
    add_prefix_space: bool = False,
    whole_words: bool = False,
) -> tokenizers.Tokenizer:
    """A tokenizer of a vocabulary in the alphabet's characters and of its merges, the first one first.

    pattern: regular expression of the parts that merges do not cross; None: GPT-2's. nfc: texts are composed first.
    whole_words: a part that is in the vocabulary is a token, whatever the merges. Raises TokenizerError for two tokens
    of one id.
    """
    if len(set(vocab.values())) != len(vocab):
        limit = f"{len(vocab) - len(set(vocab.values()))} of the tokens have the id of another"
        raise TokenizerError(name="vocabulary", value=len(vocab), limit=limit)
    backend = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=whole_words))
    if nfc:
        backend.normalizer = normalizers.NFC()
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=pattern is None)
    if pattern is None:
        backend.pre_tokenizer = spelling
    else:
        cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([cut, spelling])
    backend.decoder = decoders.ByteLevel()
    return backend


def ranked_bpe(
    tokens: Sequence[bytes], *, pattern: str, special: Mapping[str, int], first_id: int = 0, nfc: bool = False
) -> tokenizers.Tokenizer:
    """A tokenizer of tokens by rank, as tiktoken has them: of neighbours, those merge first that make the lowest rank.

    special: tokens that text is cut at, by id. first_id: the id of rank 0. Raises TokenizerError, too, for more or
    longer tokens than `bounds` lets pass.
    """
    check_tokens(tokens)
    check_special(len(special))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    character_of = {byte: character for character, byte in alphabet().items()}
    spelled = ["".join(map(character_of.__getitem__, token)) for token in tokens]
    vocab = {text: first_id + rank for rank, text in enumerate(spelled)}
    if len(vocab) != len(tokens) or not vocab.keys().isdisjoint(special):
        twice = next((text for text in special if text in vocab), "a token")
        raise TokenizerError(name="tokens", value=twice, limit="it is there twice")
    if missing := 256 - sum(len(token) == 1 for token in tokens):
        raise TokenizerError(name="tokens", value=len(tokens), limit=f"{missing} of the 256 bytes are not among them")
    # the vocabulary says what a merge makes, so every way to cut a token in two is a merge
    merges = bounded_merges(
        (spelled[left], spelled[right])
        for token in tokens
        for at in range(len(token) - 1, 0, -1)
        if (left := ranks.get(token[:at])) is not None and (right := ranks.get(token[at:])) is not None
    )
    backend = byte_level_bpe({**vocab, **special}, merges, pattern=pattern, nfc=nfc, whole_words=True)
    ids = sorted(special.items(), key=lambda item: item[1])
    assert all(left[1] < right[1] for left, right in pairwise(ids)), "two special tokens of one id"
    backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text, _ in ids])
    return backend
