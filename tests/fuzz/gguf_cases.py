"""GGUF files that a stranger has changed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzz.uses import keep_graph, use
from hypothesis import strategies as st

VALUES: tuple[Any, ...] = (
    *(0, 1, 2, 3, 7, 64, 2**31, 2**32 - 1, True, False, 0.0, -1.0, 0.5, 1e30, float("nan"), float("inf")),
    *("", "a", "yarn", "linear", "llama", "gpt2", "llama-bpe", "qwen3", "\0", "é" * 5000, "{{ x }}", "{% if"),
    *([0], [1, 2], [0.5], [float("nan")] * 264, ["a"], ["a b"], ["", ""], ["a", "a"], [""] * 264, [1] * 264, [9] * 264),
)
"""That a GGUF file's metadata can have."""
MORE_KEYS = (
    *("context_length", "embedding_length", "block_count", "feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon"),
    *("attention.sliding_window", "rope.freq_base", "tokenizer.chat_template", "tokenizer.ggml.unknown_token_id"),
)


class Gguf:
    """GGUF files with a tokenizer: values of the metadata and bytes of the header, read as a model and as tokens."""

    def __init__(self, folder: Path) -> None:
        from gguf_files import write_both

        keep_graph()
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab"]
        self._metadata: dict[str, Any] = {
            **{"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": tokens},
            **{"tokenizer.ggml.scores": [-0.5 * i for i in range(len(tokens))], "tokenizer.ggml.merges": ["a b"]},
            **{"tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 5], "tokenizer.ggml.eos_token_id": 2},
            **{"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": True, "expert_count": 0},
            **{"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.original_context_length": 64},
        }
        self._write = write_both
        self._path, _ = write_both(folder, "llama", "Q4_0", change=self._changes({}))
        self._whole = self._path.read_bytes()
        self._header = len(self._whole) - self._data_bytes()
        self._keys = [*sorted(self._metadata), *MORE_KEYS]

    def case(self, folder: Path, data: st.DataObject) -> object:
        from jaxpaged.errors import JaxPagedError
        from jaxpaged.weights.gguf_text import text_folder
        from jaxpaged.weights.load import load_model

        if data.draw(st.integers(0, 2)) == 0:
            with TemporaryDirectory(dir=folder) as place:
                values = st.sampled_from(VALUES)
                changed = data.draw(st.dictionaries(st.sampled_from(self._keys), values, max_size=2))
                written, _ = self._write(Path(place), "llama", "Q4_0", change=self._changes(changed))
                written.replace(self._path)
        else:
            self._path.write_bytes(self._damaged(data))
        with suppress(JaxPagedError), TemporaryDirectory(dir=folder) as cache_folder:
            use(text_folder(self._path, cache=Path(cache_folder)))
        return load_model(self._path, dtype="float32")

    def _damaged(self, data: st.DataObject) -> bytes:
        place, change = data.draw(st.integers(0, self._header - 1)), data.draw(st.integers(0, 9))
        before, after = self._whole[:place], self._whole[place:]
        if change == 0:
            return before
        if change == 1:
            return before + data.draw(st.binary(min_size=1, max_size=8)) + after
        if change == 2:
            return before + after[data.draw(st.integers(1, 40)) :]
        size = data.draw(st.sampled_from((1, 1, 4, 8)))
        value = data.draw(st.sampled_from((0, 1, 5, 9, 32, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)))
        return before + (value % 2 ** (8 * size)).to_bytes(size, "little") + after[size:]

    def _changes(self, changed: dict[str, Any]) -> Any:
        return lambda metadata, tensors: metadata.update(self._metadata | changed)

    def _data_bytes(self) -> int:
        from gguf import GGUFReader

        return len(self._whole) - GGUFReader(self._path).data_offset
