"""What a step costs, by a formula: the roofline of a device that need not be here. [no jax]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jaxpaged.models.config import ModelConfig
from jaxpaged.plan import StepPlan
from jaxpaged.roofline import Rates, work_of


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one step: of the host before the device may begin, of the device, and of the host after its results.

    bound: what the device's are bound by, "bytes" or "flops" of a roofline, or "measured".
    """

    launch_s: float
    device_s: float
    commit_s: float
    bound: str


class StepCost(Protocol):
    """How long the step of a plan takes."""

    def __call__(self, plan: StepPlan) -> StepTime: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineCost:
    """The least time of each step: its padded tokens' products, its rows' keys and values. The host costs nothing.

    dtype, kv_dtype: of weights and pool.
    """

    model: ModelConfig
    rates: Rates
    dtype: str
    kv_dtype: str

    def __call__(self, plan: StepPlan) -> StepTime:
        work = work_of(plan, self.model, dtype=self.dtype, kv_dtype=self.kv_dtype, padded=True)
        device_s = work.seconds(self.rates)
        bytes_s = self.rates.seconds(num_bytes=work.read_bytes, flops=0)
        return StepTime(launch_s=0, device_s=device_s, commit_s=0, bound="bytes" if bytes_s == device_s else "flops")
