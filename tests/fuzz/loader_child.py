"""One kind of generated model files, read in a process whose memory is capped: loader_child.py KIND CASES.

Whatever is raised but errors of `jaxpaged.errors` ends it, and so does a case of 5 s. Cases are the same each time.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzz.gguf_cases import Gguf
from fuzz.mutations import documents, texts
from fuzz.older_tokenizers import Pieces, Tekken, Tiktoken, VocabMerges
from fuzz.tokenizer_seeds import parts, seeds
from fuzz.uses import keep_graph, use
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

MOST_S = 5.0
MOST_BYTES = 2**30


class Headers:
    """Headers and offsets of one file: what we take, the library takes too, and it reads the same."""

    def __init__(self, folder: Path) -> None:
        from weight_folders import tensors, write_single

        from jaxpaged.weights.safetensors import SINGLE

        keep_graph()
        write_single(folder, tensors(), tie_word_embeddings=False)
        self._path = folder / SINGLE
        whole = self._path.read_bytes()
        length = int.from_bytes(whole[:8], "little")
        self._header, self._data = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def case(self, folder: Path, data: st.DataObject) -> object:
        from safetensors import safe_open

        from jaxpaged.weights.load import load_model

        text = data.draw(texts(data.draw(documents(self._header))))
        change = data.draw(st.integers(0, 11))
        length = len(text)
        if change == 0:
            length = data.draw(
                st.sampled_from((0, 1, 2**63, 2**64 - 1, 100_000_001, length - 1, length + 1, length * 2))
            )
        tail = self._data[: -data.draw(st.integers(1, 9))] if change == 1 else self._data
        if change == 2:
            tail += bytes(data.draw(st.integers(1, 9)))
        whole = max(0, length).to_bytes(8, "little") + text + tail
        if change == 3:
            whole = whole[: data.draw(st.integers(0, len(whole)))]
        self._path.write_bytes(whole)
        model = load_model(folder, dtype="float32")
        with safe_open(self._path, "numpy") as opened:
            assert opened.keys()
        return model


class Indexes:
    """The index of two shards, and which files are there."""

    def __init__(self, folder: Path) -> None:
        from weight_folders import A, B, tensors, write_sharded

        from jaxpaged.weights.safetensors import INDEX

        keep_graph()
        self._files = write_sharded(folder, tensors())
        self._index = folder / INDEX
        self._others = (A, B, A.upper(), "config.json", "../a", "a/b", ".", "..", "a" * 300, "link", "x.bin", "")
        (folder / "link").symlink_to(B)

    def case(self, folder: Path, data: st.DataObject) -> object:
        from jaxpaged.weights.load import load_model

        index = {"metadata": {"total_size": 1}, "weight_map": self._files}
        self._index.write_bytes(data.draw(texts(data.draw(documents(index, others=self._others)))))
        return load_model(folder, dtype="float32")


class Configs:
    """config.json of all families, beside weights that fit none of them, or one."""

    def __init__(self, folder: Path) -> None:
        from families.case import ABSENT
        from families.zoo import CASES
        from weight_folders import tensors, write_single

        from jaxpaged.models.families import FAMILIES, read_config

        write_single(folder, tensors())
        self._seeds = [json.loads((folder / "config.json").read_text())]
        for case in CASES.values():
            keys = {"architectures": [case.architecture], **case.config, **case.keys}
            seed = {key: value for key, value in keys.items() if value is not ABSENT}
            with suppress(Exception):  # what only transformers' own defaults make whole
                read_config(seed)
                self._seeds.append(json.loads(json.dumps(seed)))
        covered = {seed["architectures"][0] for seed in self._seeds}
        assert covered == FAMILIES.keys(), f"no config is read of {FAMILIES.keys() - covered}"
        self._path = folder / "config.json"

    def case(self, folder: Path, data: st.DataObject) -> object:
        from jaxpaged.weights.load import load_model, read_model_config

        seed = self._seeds[data.draw(st.integers(0, len(self._seeds) - 1))]
        self._path.write_bytes(data.draw(texts(data.draw(documents(seed)))))
        read_model_config(folder)
        return load_model(folder, dtype="float32")


class Tokenizers:
    """tokenizer.json of every kind, read and then used."""

    def __init__(self, folder: Path) -> None:
        self._seeds, self._parts = seeds(), parts()
        self._path = folder / "tokenizer.json"

    def case(self, folder: Path, data: st.DataObject) -> object:
        seed = self._seeds[data.draw(st.integers(0, len(self._seeds) - 1))]
        document = data.draw(documents(seed, others=self._parts))
        stage = data.draw(
            st.sampled_from(("", "", "normalizer", "pre_tokenizer", "post_processor", "decoder", "padding"))
        )
        if stage and isinstance(document, dict):
            document[stage] = data.draw(st.sampled_from(self._parts))
        self._path.write_bytes(data.draw(texts(document)))
        return use(folder)


class TokenizerConfigs:
    """What lies beside tokenizer.json: its config, special tokens, generation_config.json, config.json, templates."""

    def __init__(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(seeds()[1]))
        added = {"content": "<x>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
        template = (
            "{% for m in messages %}<s>{{ m['role'] }}: {{ m.content | trim }}"
            "{% if loop.last %}</s>{% endif %}{% endfor %}"
        )
        more = (
            "{%- set ns = namespace(a=1) -%}{{ bos_token }}{{ messages[0]['content'] | tojson }}"
            "{{ raise_exception('x') }}"
        )
        ids = {"bos_token_id": 1, "eos_token_id": [2, 3]}
        self._seeds: dict[str, Any] = {
            "tokenizer_config.json": {
                **{"bos_token": "<s>", "eos_token": added | {"content": "</s>"}, "unk_token": None},
                **{"added_tokens_decoder": {"264": added, "1": added | {"content": "<s>"}}},
                **{
                    "chat_template": [{"name": "default", "template": template}, {"name": "tool_use", "template": more}]
                },
            },
            "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
            "generation_config.json": {**ids, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "max_new_tokens": 9},
            "config.json": {**ids, "text_config": {"eos_token_id": 2}},
        }
        self._templates = (template, more, '{{ strftime_now("%Y") }}{% macro a(b) %}{{ b }}{% endmacro %}{{ a(1) }}')
        for name, seed in self._seeds.items():
            (folder / name).write_text(json.dumps(seed))

    def case(self, folder: Path, data: st.DataObject) -> object:
        from jaxpaged.chat_template import ChatTemplates
        from jaxpaged.config import EngineConfig
        from jaxpaged.sampling_defaults import sampling_defaults
        from jaxpaged.tokenize import read_templates

        name = data.draw(st.sampled_from((*self._seeds, "chat_template.jinja")))
        path = folder / name
        if name in self._seeds:
            path.write_bytes(data.draw(texts(data.draw(documents(self._seeds[name], others=self._templates)))))
        else:
            source = data.draw(st.sampled_from(self._templates))
            begin, end = sorted((data.draw(st.integers(0, len(source))), data.draw(st.integers(0, len(source)))))
            piece = data.draw(
                st.sampled_from(("{%", "%}", "{{", "}}", "(", ".__class__", "| length", "[0]", "\0", "é", "1 / 0"))
            )
            path.write_text(source[:begin] + piece + source[end:])
        try:
            defaults = sampling_defaults(EngineConfig(model=str(folder)))
            tokenizer = use(folder)
            if tokenizer.has_chat_template:  # here, not in a process for each case, which is what servers do
                templates = ChatTemplates(*read_templates(folder))
                templates.render([{"role": "user", "content": "hi"}], add_generation_prompt=True)
            return defaults
        finally:
            path.unlink() if name not in self._seeds else path.write_text(json.dumps(self._seeds[name]))


class Large:
    """Each kind of file as large as it may be, and larger: once each, not generated."""

    def __init__(self, folder: Path) -> None:
        from weight_folders import tensors, write_single

        from jaxpaged.weights.safetensors import INDEX, SINGLE

        write_single(folder, tensors())
        (folder / "tokenizer.json").write_text(json.dumps(seeds()[1]))
        (folder / "model-1.safetensors").write_bytes((folder / SINGLE).read_bytes())
        entry = b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
        added = {str(264 + i): {"content": f"<{i}>", "special": True} for i in range(100_000)}
        word_level = {f"{i:x}": i for i in range(3 * 2**18 - 9)}
        self._files: list[tuple[str, bytes]] = [
            (SINGLE, _headed(b'{"' + b"a" * 99_999_000 + b'":1}')),
            (SINGLE, _headed(b'{"' + "🙂".encode() * 24_000_000 + b'":1}')),
            (SINGLE, _headed(b'{"a":[' + b"1," * 45_000_000 + b"1]}")),
            (SINGLE, _headed(b'{"a":' * 19_000_000)),
            (SINGLE, _headed(b"{" + b",".join(entry % i for i in range(340_000)) + b"}")),
            (SINGLE, _headed(b"{" + b",".join(b'"%x":[]' % i for i in range(10**6)) + b"}")),
            ("config.json", b'{"architectures":"' + b"a" * 2**26 + b'"}'),
            ("config.json", b'{"architectures":"' + b"a" * (2**26 - 99) + b'"}'),
            ("config.json", b'{"a":[' + b"{}," * (2**20 - 9) + b"{}]}"),
            (INDEX, json.dumps({"weight_map": {f"{i:x}": "model-1.safetensors" for i in range(10**6)}}).encode()),
            (INDEX, json.dumps({"weight_map": {f"{i:x}": f"{i:x}.safetensors" for i in range(10**6)}}).encode()),
            (INDEX, json.dumps({"weight_map": {f"{i:x}": f"{i:x}.safetensors" for i in range(500)}}).encode()),
            ("tokenizer_config.json", json.dumps({"added_tokens_decoder": added}).encode()),
            ("tokenizer.json", b"[" * 2**26),
            ("tokenizer.json", b" " * (2**26 + 1)),
            (
                "tokenizer.json",
                json.dumps({"model": {"type": "WordLevel", "vocab": word_level, "unk_token": "0"}}).encode(),
            ),
            ("chat_template.jinja", b"a" * (2**26 + 1)),
        ]
        self.count = len(self._files)
        self._turn = 0

    def case(self, folder: Path, data: None) -> object:
        from jaxpaged.weights.load import load_model
        from jaxpaged.weights.safetensors import INDEX, SINGLE

        name, content = self._files[self._turn]
        self._turn += 1
        path = folder / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        if name == INDEX:
            (folder / SINGLE).rename(folder / "aside")
        try:
            return load_model(folder, dtype="float32") if name in (SINGLE, INDEX, "config.json") else use(folder)
        finally:
            if name == INDEX:
                (folder / "aside").rename(folder / SINGLE)
            path.unlink() if before is None else path.write_bytes(before)


def _headed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


_KINDS = (Headers, Indexes, Configs, Tokenizers, TokenizerConfigs, Gguf, Large, Tekken, Tiktoken, VocabMerges, Pieces)
KINDS = {kind.__name__.lower(): kind for kind in _KINDS}


def main() -> None:
    from jaxpaged.errors import JaxPagedError

    kind, cases = KINDS[sys.argv[1]], int(sys.argv[2])
    outcomes: Counter[str] = Counter()
    longest = 0.0
    with TemporaryDirectory() as name:
        folder = Path(name)
        reader = kind(folder)

        def run(data: Any) -> None:
            nonlocal longest
            began = time.process_time()  # of all threads: other processes may take as long as they like
            try:
                reader.case(folder, data)
                outcome = "read"
            except JaxPagedError as error:
                str(error).encode()
                outcome = type(error).__name__
            took = time.process_time() - began
            assert took < MOST_S, f"a case took {took:.1f} s of CPU time"
            longest = max(longest, took)
            outcomes[outcome] += 1

        options = settings(
            max_examples=max(1, cases),
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )
        if isinstance(reader, Large):
            cap_memory()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(reader.count):
                run(None)
        else:
            settings(options, max_examples=20)(given(st.data())(run))()
            outcomes.clear()
            cap_memory()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            settings(options)(given(st.data())(run))()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    used = round(time.process_time())
    print(json.dumps({"outcomes": outcomes, "longest_s": round(longest, 3), "grown_bytes": grown, "cpu_s": used}))


def cap_memory() -> None:
    """Beyond what there is now: who asks for more gets an error, and code in Rust ends the process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
