"""jaxpaged: an LLM inference engine in JAX.

A request's life: prompt -> `Tokenizer` -> `LLMEngine.submit` -> `Scheduler.plan` -> `batch.pack` ->
`ModelRunner.execute` (compiled) -> `Scheduler.commit` -> `Completion` (text, stop strings) -> `RequestOutput`.

Names are imported on first use, so that `import jaxpaged` is quick and starts no device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxpaged.async_engine import AsyncEngine as AsyncEngine
    from jaxpaged.beams import BeamSearchParams as BeamSearchParams
    from jaxpaged.config import EngineConfig as EngineConfig
    from jaxpaged.engine import LLMEngine as LLMEngine
    from jaxpaged.llm import LLM as LLM
    from jaxpaged.outputs import OutputKind as OutputKind
    from jaxpaged.repetition import RepetitionDetectionParams as RepetitionDetectionParams
    from jaxpaged.request import RequestOutput as RequestOutput
    from jaxpaged.sampling_params import SamplingParams as SamplingParams
    from jaxpaged.structured.params import StructuredOutputsParams as StructuredOutputsParams

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncEngine",
    "BeamSearchParams",
    "EngineConfig",
    "LLMEngine",
    "OutputKind",
    "RepetitionDetectionParams",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
]

_HOME = {
    "LLM": "jaxpaged.llm",
    "AsyncEngine": "jaxpaged.async_engine",
    "BeamSearchParams": "jaxpaged.beams",
    "EngineConfig": "jaxpaged.config",
    "LLMEngine": "jaxpaged.engine",
    "OutputKind": "jaxpaged.outputs",
    "RepetitionDetectionParams": "jaxpaged.repetition",
    "RequestOutput": "jaxpaged.request",
    "SamplingParams": "jaxpaged.sampling_params",
    "StructuredOutputsParams": "jaxpaged.structured.params",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'jaxpaged' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
