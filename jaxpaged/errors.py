"""Every error a user can meet. Each names the thing, its value, the limit and the fix.

Owns the exception types only; a mapping to HTTP belongs to the server. Our own mistakes are
`assert`s, never these.
"""

from __future__ import annotations

__all__ = [
    "CapacityError",
    "ChildError",
    "ConfigError",
    "ContextLengthError",
    "EngineError",
    "GrammarError",
    "HubError",
    "JaxPagedError",
    "ModelError",
    "OutputError",
    "ParameterError",
    "PromptError",
    "RequestError",
    "TokenizerError",
    "UnsupportedModelError",
    "WeightsError",
]


class JaxPagedError(Exception):
    """Base of all errors of this package.

    `name`, `value`, `limit` and `fix` are there for programs; `str(error)` tells the same to people.
    """

    def __init__(self, *, name: str, value: object, limit: str, fix: str = "") -> None:
        self.name = name
        self.value = value
        self.limit = limit
        self.fix = fix
        shown = repr(_beginning(value))
        if len(shown) > 200:
            shown = f"{shown[:200]}..."
        sentence = f"{name if len(name) <= 500 else f'{name[:500]}...'} is {shown}: {limit}"
        text = f"{sentence}. {fix}" if fix else sentence
        super().__init__(text.encode("utf-8", "backslashreplace").decode())  # a file's key may be half a surrogate

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.name, self.value, self.limit, self.fix))


def _beginning(value: object) -> object:
    """Of a long value what is shown: to write out a million token ids takes a tenth of a second."""
    plain = type(value) in (str, bytes, list, tuple)
    return value[:201] if plain and isinstance(value, str | bytes | list | tuple) else value


def _rebuild(kind: type[JaxPagedError], name: str, value: object, limit: str, fix: str) -> JaxPagedError:
    return kind(name=name, value=value, limit=limit, fix=fix)


class ConfigError(JaxPagedError, ValueError):
    """An engine option that cannot be."""


class ModelError(JaxPagedError):
    """A model folder that cannot be served."""


class UnsupportedModelError(ModelError):
    """An architecture, or a config key that changes the maths, which is not implemented."""


class HubError(ModelError):
    """A model that could not be brought here from a hub; what came of it is kept for the next try."""


class WeightsError(ModelError):
    """Weights that are missing, unknown, doubled, wrong-shaped or damaged; all of them are listed."""


class TokenizerError(ModelError):
    """A tokenizer or chat template that is missing or damaged."""


class RequestError(JaxPagedError, ValueError):
    """A request that cannot be served as asked. The engine and its other requests go on."""


class ParameterError(RequestError):
    """A sampling parameter out of range."""


class GrammarError(RequestError):
    """A schema, expression or grammar that answers cannot be held to. `name`: the place in it, where that is known."""


class PromptError(RequestError):
    """A prompt that is empty or holds token ids that the model does not have."""


class ContextLengthError(RequestError):
    """A prompt that leaves no room for an answer within the longest context."""


class CapacityError(RequestError):
    """A request that could never fit into the KV pool, even alone."""


class OutputError(JaxPagedError, OSError):
    """Results could not be written; what was written before stays."""


class ChildError(JaxPagedError, RuntimeError):
    """A process that this one needs does not start. It is not about the request; asking again may help."""


class EngineError(JaxPagedError, RuntimeError):
    """The engine has stopped or broke; submit to a new one."""
