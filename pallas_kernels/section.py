"""What one section of a tuning table may say: the facts that conditions name, the values that the kernels take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pallas_kernels.target import PLATFORMS

Fact = str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The whole numbers that a value may be."""

    least: int
    most: int
    power_of_two: bool = True

    def hold(self, value: object) -> bool:
        """Whether `value` is one of them."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            return False
        return not self.power_of_two or value & (value - 1) == 0

    def __str__(self) -> str:
        return f"a {'power of two' if self.power_of_two else 'whole number'} from {self.least} to {self.most}"


TILE = Bounds(least=16, most=1024)
"""Of a matrix product: the units for these take 16; a tile of more with any other has no room in registers."""
WARPS = Bounds(least=1, most=32)
"""CUDA's programs have 1,024 threads at most."""
STAGES = Bounds(least=1, most=16, power_of_two=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that an entry must not say. value: what it says; limit: what it may."""

    name: str
    value: object
    limit: str

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}: {self.limit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """words: the facts that are texts, and the texts they may be (none given: any); numbers: the others.

    values: what an entry must give, the `optional` ones aside. All tables know the platform and the kind of a device.
    """

    name: str
    words: Mapping[str, tuple[str, ...]]
    numbers: tuple[str, ...]
    values: Mapping[str, Bounds]
    optional: tuple[str, ...] = ()

    def check(self, use: Mapping[str, object]) -> None:
        """Raise ValueError where these are no values of the section."""
        if (fault := self._fault_of_use(use)) is not None:
            raise ValueError(f"tuning of {self.name}: {fault}")

    def fault(self, when: Mapping[str, Sequence[Fact]], use: Mapping[str, object]) -> Fault | None:
        """The first thing that is wrong with an entry, conditions first."""
        faults = (self._fault_of_condition(name, wanted) for name, wanted in when.items())
        return next(filter(None, faults), None) or self._fault_of_use(use)

    def _fault_of_use(self, use: Mapping[str, object]) -> Fault | None:
        if missing := [name for name in self.values if name not in use and name not in self.optional]:
            return Fault(name="use", value=dict(use), limit=f"{', '.join(missing)} missing")
        for name, value in use.items():
            bounds = self.values.get(name)
            if bounds is None:
                return Fault(name=name, value=value, limit=f"it is unknown: there are {', '.join(self.values)}")
            if not bounds.hold(value):
                return Fault(name=name, value=value, limit=f"it must be {bounds}")
        return None

    def _fault_of_condition(self, name: str, wanted: Sequence[Fact]) -> Fault | None:
        words: Mapping[str, tuple[str, ...]] = {"platform": PLATFORMS, "kind": (), **self.words}
        number = name.removeprefix("max_").removeprefix("min_")
        for fact in wanted:
            if name in words:
                if not isinstance(fact, str) or (words[name] and fact not in words[name]):
                    limit = f"it must be one of {', '.join(words[name])}" if words[name] else "it must be a text"
                    return Fault(name=name, value=fact, limit=limit)
            elif number in self.numbers:
                if isinstance(fact, bool) or not isinstance(fact, int):
                    return Fault(name=name, value=fact, limit="it must be a whole number")
            else:
                known = ", ".join((*words, *self.numbers))
                return Fault(name=name, value=fact, limit=f"no such condition: {self.name} knows {known}")
        return None
