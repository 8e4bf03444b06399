"""Which variables a chat template may be given beside the conversation. [no jax]"""

from __future__ import annotations

RESERVED = frozenset(
    {
        *("messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message"),
        *("tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask", "padding", "truncation"),
        *("max_length", "tokenizer_kwargs", "conversation", "self"),
    }
)
"""Names that mean something to the renderer itself, or to other servers' ones."""


def is_free(name: str) -> bool:
    """Whether a variable may have this name."""
    return name.isidentifier() and name not in RESERVED
