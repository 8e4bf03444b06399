"""The bundled model: a small Llama trained on CPython's standard library.

The folder is a plain Hugging Face model folder (config.json, model.safetensors,
tokenizer.json, ...), so any engine can load it. `corpus.py` and `train.py` are how it
was made; MODEL_CARD.md says what it learned and under which licence its data stands.
"""

from pathlib import Path

TINY_MODEL = Path(__file__).parent
"""Folder of the bundled model, the default of every command."""

TINY_DRAFT = TINY_MODEL / "draft"
"""Folder of its draft model, for `speculative_config`."""
