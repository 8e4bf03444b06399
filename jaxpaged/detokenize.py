"""Token ids to text as they come. Nothing here knows requests. [host half: no jax]"""

from __future__ import annotations

import codecs

from jaxpaged.tokenize import NoTokenizer, Tokenizer


class Detokenizer:
    """Token ids in, certain text out: never half a character. One per answer.

    The pieces joined are `tokenizer.decode` of all ids where tokens are bytes (byte-level BPE). Elsewhere the text of a
    token is what decoding adds after the token before it, so each push decodes at most two; byte tokens (`<0xE2>`) are
    gathered to characters, and invalid ones give U+FFFD alone rather than taking their neighbours along.

    shown: special tokens that are not skipped: what reads the text needs them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | NoTokenizer,
        *,
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped: frozenset[int] = tokenizer.special_ids - shown if skip_special_tokens else frozenset()
        # U+FFFD for each maximal invalid part, as tokenizers does
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._before: int | None = None  # the latest token that had a text

    def push(self, token_id: int) -> str:
        """Take the next token; returns the text that is certain now and was not before."""
        if token_id in self._skipped:
            return ""
        spelled = self._tokenizer.spell(token_id)
        if spelled == b"":
            return ""
        before, self._before = self._before, token_id
        if spelled is not None:
            return self._utf8.decode(spelled)
        ended = self.flush()  # no byte of this token can end a character begun before it
        if before is None:
            return ended + self._decode(token_id)
        return ended + self._decode(before, token_id)[len(self._decode(before)) :]

    def flush(self) -> str:
        """The rest: bytes of a character that never ended give U+FFFD."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text

    def _decode(self, *ids: int) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
