"""How model families mark what they think before they answer. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat:
    """The marks around reasoning, which comes before the answer.

    opens: one of these begins it. closes: one of these ends it. implied: an answer that does not begin with a mark
    begins with reasoning all the same, unless the prompt says otherwise: by ending with a mark of these, as templates
    write them for models that are to think, or not to.
    ends_before: calls that end it although no mark does; they are read as such.
    channels: as in `CallFormat`.
    """

    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    implied: bool = False
    ends_before: tuple[str, ...] = ()
    channels: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything that is markup and may be a special token of the model."""
        return (*self.opens, *self.closes)

    def begun_by(self, prompt: str) -> bool:
        """Whether an answer to the prompt begins within reasoning, if it does not say so itself."""
        end = prompt.rstrip()
        if end.endswith(self.opens):
            return True
        return self.implied and not end.endswith(self.closes)

    def ended_by(self, prompt: str) -> bool:
        """Whether the prompt says that there is nothing to think about."""
        return bool(self.closes) and prompt.rstrip().endswith(self.closes)


_THINK = ReasoningFormat(opens=("<think>",), closes=("</think>",))
_IMPLIED = ReasoningFormat(opens=("<think>",), closes=("</think>",), implied=True)
_CODER = ReasoningFormat(
    opens=("<think>",),
    closes=("</think>",),
    ends_before=("<tool_call>\n<function=", "<tool_call><function="),
)

REASONING_FORMATS: Mapping[str, ReasoningFormat] = MappingProxyType(
    {
        "deepseek_r1": _IMPLIED,
        "deepseek_v3": _THINK,
        "qwen3": _CODER,
        "mimo": _CODER,
        "glm45": _THINK,
        "glm47": _THINK,
        "granite": ReasoningFormat(
            opens=("Here is my thought process:", "Here's my thought process:"),
            closes=("Here is my response:", "Here's my response:"),
        ),
        "holo2": _IMPLIED,
        "kimi_k2": ReasoningFormat(
            opens=("<think>",),
            closes=("</think>",),
            implied=True,
            ends_before=("<|tool_calls_section_begin|>",),
        ),
        "minimax_m2": _IMPLIED,
        "mistral": ReasoningFormat(opens=("[THINK]",), closes=("[/THINK]",)),
        "nemotron_v3": _IMPLIED,
        "olmo3": _IMPLIED,
        "openai_gptoss": ReasoningFormat(channels=True),
        "seed_oss": ReasoningFormat(opens=("<seed:think>",), closes=("</seed:think>",), implied=True),
        "step3": _IMPLIED,
    }
)
"""By the names that vLLM's --reasoning-parser has for them."""
