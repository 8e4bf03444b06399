"""What a file of tokens gives, whatever its kind. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
from tokenizers import processors

from jaxpaged.errors import TokenizerError
from jaxpaged.panics import is_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """backend: encodes and decodes. is_whole: with all that it does around a text.

    Where nothing else says so: special_tokens, the named ones ("bos_token": "<s>", ...), and whether the model wants
    them around a text (adds_bos, adds_eos).
    """

    backend: tokenizers.Tokenizer
    is_whole: bool = False
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    adds_bos: bool = False
    adds_eos: bool = False


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read is told as a TokenizerError that names it.

    Stages of tokenizers built from damaged values panic: that is no `Exception`, and no class that could be imported.
    """
    try:
        yield
    except TokenizerError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        limit = f"it cannot be read: {type(error).__name__}: {str(error)[:300]}"
        raise TokenizerError(name="tokenizer", value=str(path), limit=limit) from error


def put_around(backend: tokenizers.Tokenizer, *, bos: str | None = None, eos: str | None = None) -> None:
    """Let the tokenizer put these tokens around a text (None: none), those that it knows, and nothing else."""
    ids = {text: i for text in (bos, eos) if text is not None and (i := backend.token_to_id(text)) is not None}
    # a template's parts may hold colons, tokens may too: they stand in it by other names
    names = {text: f"[{i}]" for text, i in ids.items()}
    around = [[names[text]] if text in names else [] for text in (bos, eos)]
    special = [{"id": names[text], "ids": [i], "tokens": [text]} for text, i in ids.items()]
    backend.post_processor = processors.TemplateProcessing(
        single=[*around[0], "$A", *around[1]], special_tokens=special
    )
