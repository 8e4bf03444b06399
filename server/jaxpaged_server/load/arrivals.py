"""When requests are sent: all at once, at a rate with gamma-distributed gaps, or at a rate that ramps up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from jaxpaged.errors import ConfigError

STRATEGIES = ("linear", "exponential")


@dataclass(frozen=True, slots=True, kw_only=True)
class RampUp:
    """Requests a second that grow from `start_rps` to `end_rps`, by the number of requests sent."""

    strategy: str
    start_rps: float
    end_rps: float

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigError(
                name="--ramp-up-strategy", value=self.strategy, limit=f"it must be one of {', '.join(STRATEGIES)}"
            )
        if not 0 < self.start_rps < math.inf:
            raise ConfigError(name="--ramp-up-start-rps", value=self.start_rps, limit="it must be above 0 and finite")
        if not self.start_rps <= self.end_rps < math.inf:
            raise ConfigError(
                name="--ramp-up-end-rps",
                value=self.end_rps,
                limit=f"it must be finite and no less than --ramp-up-start-rps ({self.start_rps:g})",
            )

    def rate(self, progress: float) -> float:
        """Requests a second when this share (0 to 1) of the requests has been sent."""
        if self.strategy == "linear":
            return self.start_rps + (self.end_rps - self.start_rps) * progress
        return self.start_rps * (self.end_rps / self.start_rps) ** progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How requests come. rate: requests a second, infinite: all at once.

    burstiness: the shape of the gamma distribution of the gaps. 1 is a Poisson process, less comes in bursts, more is
    more even, infinite is a metronome: the gaps' standard deviation is their mean / sqrt(burstiness).
    """

    rate: float = math.inf
    burstiness: float = 1.0
    ramp_up: RampUp | None = None

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ConfigError(name="--request-rate", value=self.rate, limit="it must be above 0 (inf: all at once)")
        if not self.burstiness > 0:
            raise ConfigError(name="--burstiness", value=self.burstiness, limit="it must be above 0")
        if self.ramp_up is not None and self.rate < math.inf:
            raise ConfigError(
                name="--request-rate", value=self.rate, limit="a ramp sets the rate", fix="Leave --request-rate out"
            )

    def offsets(self, count: int, random: Random) -> list[float]:
        """Seconds from the start of the run to each request, ascending.

        At a fixed rate they are stretched so that the last comes at exactly count / rate, as vLLM's are: two seeds
        offer the same load.
        """
        gaps = [self._gap(index / max(count - 1, 1), random) for index in range(count)]
        times = list(accumulate(gaps))
        if self.ramp_up is None and times and times[-1] > 0:
            stretch = count / self.rate / times[-1]
            times = [time * stretch for time in times]
        return times

    def _gap(self, progress: float, random: Random) -> float:
        rate = self.rate if self.ramp_up is None else self.ramp_up.rate(progress)
        if rate == math.inf:
            return 0.0
        if self.burstiness == math.inf:
            return 1.0 / rate
        return random.gammavariate(self.burstiness, 1.0 / (rate * self.burstiness))
