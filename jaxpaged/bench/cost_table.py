"""What steps cost on one machine, measured: a line for each bucket over the keys that a step reads. [no jax]

    decode bucket:  seconds = base + key * (keys of all rows)
    mixed bucket:   seconds = base + pair * (pairs of a query and a key in chunks) + key * (keys of rows of one token)

Keys and pairs are those of one head in all layers together; `key` of a mixed bucket is that of the decode bucket
that its rows of one token would fit into. A bucket that was not measured lies between its neighbours in proportion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxpaged.bench.step_cost import StepTime
from jaxpaged.buckets import Bucket, BucketTable
from jaxpaged.config import default_compile_cache
from jaxpaged.errors import ConfigError
from jaxpaged.models.config import ModelConfig
from jaxpaged.plan import StepPlan
from jaxpaged.roofline import keys_and_pairs

_FORMAT = 1
_FIX = "Measure it where the model shall run: jaxpaged plan --measure, with the same options"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketCost:
    """Seconds of a bucket's step: base_s with nothing to read, and unit_s a key (decode) or a pair (mixed)."""

    tokens: int
    rows: int
    base_s: float
    unit_s: float

    @classmethod
    def fit(cls, bucket: Bucket, points: Sequence[tuple[float, float]]) -> BucketCost:
        """The line of least relative squares through (keys or pairs, seconds) that does not fall."""
        weights = [1 / seconds**2 for _, seconds in points]
        total = sum(weights)
        mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
        mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
        spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
        slope = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True))
        unit_s = max(0.0, slope / spread) if spread else 0.0
        base_s = max(0.0, mean_y - unit_s * mean_x)
        return cls(tokens=bucket.tokens, rows=bucket.rows, base_s=base_s, unit_s=unit_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCost:
    """Seconds that a step takes of the host, before its launch and after its results: a step's, and a row's more."""

    launch_s: float
    launch_row_s: float
    commit_s: float
    commit_row_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """What steps cost. subject: what was measured (model, types, backend, device), by name, as text."""

    subject: Mapping[str, str]
    host: HostCost
    buckets: tuple[BucketCost, ...]

    @property
    def decode(self) -> list[BucketCost]:
        """Buckets of rows of one token, in ascending order."""
        return sorted((cost for cost in self.buckets if cost.tokens == cost.rows), key=lambda cost: cost.tokens)

    @property
    def mixed(self) -> list[BucketCost]:
        return sorted((cost for cost in self.buckets if cost.tokens != cost.rows), key=lambda cost: cost.tokens)

    def check(self, subject: Mapping[str, str], buckets: BucketTable, *, where: Path) -> None:
        """Raise ConfigError where the table is of something else, or does not reach as far as the buckets."""
        for name, wanted in subject.items():
            if (found := self.subject.get(name, "nothing")) != wanted:
                raise ConfigError(name=f"{name} of {where}", value=found, limit=f"the plan is for {wanted!r}", fix=_FIX)
        for kind, costs in ((buckets.decode, self.decode), (buckets.mixed, self.mixed)):
            tokens = [cost.tokens for cost in costs] or [0]
            for bucket in kind:
                if not tokens[0] <= bucket.tokens <= tokens[-1]:
                    limit = f"the plan has a bucket of {bucket.tokens}"
                    raise ConfigError(name=f"tokens of the buckets of {where}", value=tokens, limit=limit, fix=_FIX)

    def write(self, path: Path) -> None:
        """As JSON, with folders made where they are missing. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)
        path.write_text(f"{text}\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCost:
    """The cost of steps of a model by a table of it."""

    table: CostTable
    model: ModelConfig

    def __call__(self, plan: StepPlan) -> StepTime:
        singles = [(row.start, 1) for row in plan.rows if row.length == 1]
        chunks = [(row.start, row.length) for row in plan.rows if row.length > 1]
        keys, pairs = keys_and_pairs(self.model, singles)[0], keys_and_pairs(self.model, chunks)[1]
        decode = self.table.decode
        rows = min(max(decode[0].rows, len(singles)), decode[-1].rows)
        key_s = _between(decode, rows, lambda cost: cost.unit_s)
        tokens = plan.bucket.tokens
        costs = decode if plan.bucket.is_decode else self.table.mixed
        device_s = _between(costs, tokens, lambda cost: cost.base_s) + key_s * keys
        if chunks:
            device_s += _between(costs, tokens, lambda cost: cost.unit_s) * pairs
        host, size = self.table.host, len(plan.rows)
        return StepTime(
            launch_s=host.launch_s + host.launch_row_s * size,
            device_s=device_s,
            commit_s=host.commit_s + host.commit_row_s * size,
            bound="measured",
        )


def read_costs(path: Path) -> CostTable:
    """The table that `CostTable.write` wrote. Raises ConfigError for a file that is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise ValueError(f"its format is {found['format']}, this version reads {_FORMAT}")
        return CostTable(
            subject=dict(found["subject"]),
            host=HostCost(**found["host"]),
            buckets=tuple(BucketCost(**cost) for cost in found["buckets"]),
        )
    except OSError as error:
        raise ConfigError(name="--costs", value=str(path), limit=error.strerror or str(error), fix=_FIX) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(name="--costs", value=str(path), limit=f"it is no table of costs: {error!r}") from error


def default_costs(subject: Mapping[str, str]) -> Path:
    """Where the table of a subject lies where no other place is named: below the user's cache folder."""
    digest = hashlib.sha256(json.dumps(dict(sorted(subject.items()))).encode()).hexdigest()[:16]
    return default_compile_cache().parent / "costs" / f"{digest}.json"


def _between(costs: Sequence[BucketCost], tokens: int, value: Callable[[BucketCost], float]) -> float:
    """The value at so many tokens, in proportion between the costs beside it; these are in ascending order."""
    above = next(i for i, cost in enumerate(costs) if cost.tokens >= tokens)
    high = costs[above]
    if high.tokens == tokens:
        return value(high)
    low = costs[above - 1]
    share = (tokens - low.tokens) / (high.tokens - low.tokens)
    return value(low) + share * (value(high) - value(low))
