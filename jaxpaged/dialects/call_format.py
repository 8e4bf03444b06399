"""How one model family writes its calls: data that the one reader of calls follows. [host half: no jax]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectBody:
    """A JSON object that holds name and arguments, or a list of such.

    strict: nothing else marks it as a call, so it must be one of a known function, with arguments, and no other keys
    than these and `others` may come before both.
    """

    names: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    others: tuple[str, ...] = ("type", "id")
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBody:
    """A name, then the arguments as a JSON object.

    lead: what parts the kind of call, which comes first and says nothing, from the name; "" where there is no kind.
    middles: what may stand between name and arguments; with "" among them, it may be nothing. id_middle: the one of
    these after which the call's id comes, and then another of them. tail: what may follow the arguments.
    is_path: the name is written as in functions.f:0, which as a whole is the call's id.
    """

    lead: str = ""
    middles: tuple[str, ...] = ("",)
    id_middle: str = ""
    tail: str = ""
    is_path: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsBody:
    """A name, then each argument's key and value between marks; values are as the schema has them, text unquoted.

    name_end: after the name; "" where a key or an end follows at once. ends: after the last pair.
    value_begins: one of these comes between key and value; after one of `text_begins` the value is text whatever the
    schema says. line: whether a value stands on lines of its own, whose breaks are not part of it.
    """

    name_end: str = ""
    key_begin: str
    key_end: str
    value_begins: tuple[str, ...] = ("",)
    text_begins: tuple[str, ...] = ()
    value_end: str
    ends: tuple[str, ...]
    line: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonBody:
    """Calls as in Python, with keywords and literals; listed: between square brackets, else one after another.

    strict: as in `ObjectBody`.
    """

    listed: bool = True
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeBody:
    """All there is are the arguments of this function, as JSON."""

    name: str


Body = ObjectBody | NamedBody | PairsBody | PythonBody | WholeBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a grammar makes a model write a call: begin, the arguments as JSON, end. {name} stands for the function's.

    first, last: around all calls; separator: between two. trigger: the beginning of `begin` by which a call that the
    model chooses to write is known; "" where free text cannot be told from it. single: a call ends the answer.
    """

    begin: str
    end: str = ""
    first: str = ""
    last: str = ""
    separator: str = ""
    trigger: str = ""
    single: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """Where calls are in a text, and what they look like.

    opens: marks before a call or a list of calls. bare: beginnings of calls that nothing marks.
    frames: marks before the first call, dropped where a call comes next. closes: marks after calls, dropped where a
    call came before, with the white space around them; separators are among them.
    bodies: an `ObjectBody` takes what begins with a brace or a bracket, the others the rest.
    ids: of calls that bring none: "call", or nine letters and digits ("short"), which Mistral's templates insist on.
    channels: the answer is a sequence of messages, each with a channel and perhaps a recipient (gpt-oss); the fields
    before say nothing then.
    writing: how a grammar makes a model write calls; None where that is not like its own, but as in `forced`.
    """

    opens: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    bodies: tuple[Body, ...] = ()
    ids: Literal["call", "short"] = "call"
    channels: bool = False
    writing: Writing | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything that is markup and may be a special token of the model."""
        inner: list[str] = []
        for body in self.bodies:
            if isinstance(body, NamedBody):
                inner += [body.lead, *body.middles, body.tail]
            elif isinstance(body, PairsBody):
                inner += [body.name_end, body.key_begin, body.key_end, *body.value_begins, body.value_end, *body.ends]
        return tuple(filter(None, (*self.opens, *self.frames, *self.closes, *inner)))
