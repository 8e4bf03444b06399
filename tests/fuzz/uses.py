"""What the kinds of generated files share: a graph made once, a tokenizer made use of."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.tokenizer_seeds import TEXTS


def keep_graph() -> None:
    """Where config.json stays the same its graph is made once: most of a case's time would go there."""
    from jaxpaged.weights import gguf, load

    load.build = gguf.build = cache(load.build)


def use(folder: Path) -> Any:
    """Read a folder's tokenizer and do with it what a request does; what it refuses, it refuses by our errors."""
    from jaxpaged.detokenize import Detokenizer
    from jaxpaged.errors import JaxPagedError
    from jaxpaged.tokenize import Tokenizer

    tokenizer = Tokenizer.load(folder)
    ids = [*range(12), tokenizer.vocab_size - 1, 300, 2**31]
    for text in TEXTS:
        with suppress(JaxPagedError):
            ids = [*tokenizer.encode(text), *ids]
            tokenizer.encode(text, add_special_tokens=False)
    with suppress(JaxPagedError):
        tokenizer.decode(ids)
        tokenizer.token_strings(ids)
    detokenizer = Detokenizer(tokenizer)
    with suppress(JaxPagedError):
        for i in ids:
            detokenizer.push(i)
    detokenizer.flush()
    return tokenizer
