"""Plots of a run as SVG text. Colours come from the page's style; nothing is told by colour alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 18, 14, 34
_DECADES = 20.0
"""From this ratio of the largest to the least on, an axis is logarithmic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values from `low` to `high` laid out over `pixels`, whose ends may be the other way round."""

    low: float
    high: float
    pixels: tuple[float, float]
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values outside go to the ends."""
        low, high, value = (self._scaled(each) for each in (self.low, self.high, min(max(value, self.low), self.high)))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.pixels[0] + share * (self.pixels[1] - self.pixels[0])

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self) -> list[float]:
        """Round values within the axis, about six."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 2 else (1,)
            return [
                t for power in range(first, last + 1) for s in steps if self.low <= (t := s * 10.0**power) <= self.high
            ]
        step = nice_step((self.high - self.low) / 7)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value * (1 - 1e-9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A series over time: (seconds, value), the class of its colour, its name. filled: with the area below it."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    filled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A request in the timeline, in seconds. first_s: its first token, None without one. `told` is its tooltip."""

    due_s: float
    began_s: float
    first_s: float | None
    ended_s: float
    colour: str
    told: str


def lines(name: str, series: Sequence[Line], *, unit: str, duration_s: float, size: tuple[int, int]) -> str:
    """Series over the time of a run, from 0 up."""
    width, height = size
    most = max((value for line in series for _, value in line.points), default=0.0) or 1.0
    x = Axis(low=0.0, high=duration_s, pixels=(_LEFT, width - _RIGHT))
    y = Axis(low=0.0, high=most * 1.06, pixels=(height - _BOTTOM, _TOP))
    parts = [*_axes(x, y, unit=unit, x_unit="s")]
    for line in series:
        path = " ".join(f"{x.at(time_s):.1f},{y.at(value):.1f}" for time_s, value in line.points)
        if line.filled and line.points:
            base = [f"{x.at(line.points[end][0]):.1f},{y.pixels[0]}" for end in (0, -1)]
            parts.append(f'<polygon class="area {line.colour}" points="{base[0]} {path} {base[1]}"/>')
        parts.append(
            f'<polyline class="line {line.colour}" points="{path}"><title>{escape(line.name)}</title></polyline>'
        )
    return _svg(name, parts, size)


def columns(
    name: str, slices: Mapping[str, Sequence[float]], *, unit: str, duration_s: float, size: tuple[int, int]
) -> str:
    """Columns on top of each other, one for each equal slice of the run; the keys are classes of colours."""
    width, height = size
    totals = [sum(values) for values in zip(*slices.values(), strict=True)]
    x = Axis(low=0.0, high=duration_s, pixels=(_LEFT, width - _RIGHT))
    y = Axis(low=0.0, high=max(totals, default=0.0) * 1.06 or 1.0, pixels=(height - _BOTTOM, _TOP))
    parts = [*_axes(x, y, unit=unit, x_unit="s")]
    step = (x.pixels[1] - x.pixels[0]) / max(len(totals), 1)
    for number in range(len(totals)):
        below = 0.0
        for colour, values in slices.items():
            if values[number]:
                top, bottom = y.at(below + values[number]), y.at(below)
                left = x.pixels[0] + number * step
                parts.append(
                    f'<rect class="fill {colour}" x="{left + 0.5:.1f}" y="{top:.1f}" '
                    f'width="{max(1.0, step - 1):.1f}" height="{bottom - top:.1f}"/>'
                )
                below += values[number]
    return _svg(name, parts, size)


def histogram(
    name: str, values: Sequence[float], marks: Mapping[str, float], *, colour: str, unit: str, size: tuple[int, int]
) -> str:
    """How often values came, with marks at some of them; "" of nothing. The axis is logarithmic for a wide spread."""
    if not values:
        return ""
    width, height = size
    found = np.asarray(values)
    positive = found[found > 0]
    least, most = (float(positive.min()), float(positive.max())) if positive.size else (0.0, 1.0)
    log = positive.size > 0 and most / least > _DECADES
    low, high = (max(least, most / 1e6), most) if log else (max(0.0, least - 0.1 * (most - least)), most)
    high = high * 1.02 if high > low else low + 1.0
    edges = np.geomspace(low, high, 49) if log else np.linspace(low, high, 49)
    counts, _ = np.histogram(np.clip(found, low, high), edges)
    x = Axis(low=low, high=high, pixels=(_LEFT, width - _RIGHT), log=log)
    y = Axis(low=0.0, high=float(counts.max()) * 1.06, pixels=(height - _BOTTOM, _TOP + 14 * len(marks)))
    parts = [*_axes(x, y, unit="", x_unit=unit)]
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            start, end, top = x.at(left), x.at(right), y.at(count)
            told = f"{left:.4g} to {right:.4g} {unit}: {count}"
            parts.append(
                f'<rect class="fill {colour}" x="{start:.1f}" y="{top:.1f}" width="{max(1.0, end - start - 1):.1f}" '
                f'height="{y.pixels[0] - top:.1f}"><title>{escape(told)}</title></rect>'
            )
    for row, (label, value) in enumerate(marks.items()):
        parts += _mark(f"{label} {value:.4g} {unit}", x.at(value), _TOP + 14 * row, y.pixels[0], width=width)
    return _svg(name, parts, size)


def scatter(
    name: str, dots: Sequence[tuple[float, float]], *, colour: str, duration_s: float, size: tuple[int, int]
) -> str:
    """(seconds, ms) as dots; "" of nothing. The axis of ms is logarithmic for a wide spread."""
    if not dots:
        return ""
    width, height = size
    values = [value for _, value in dots]
    least, most = min(values), max(values)
    log = least > 0 and most / least > _DECADES
    x = Axis(low=0.0, high=duration_s, pixels=(_LEFT, width - _RIGHT))
    y = Axis(low=least * 0.9 if log else 0.0, high=most * 1.1 or 1.0, pixels=(height - _BOTTOM, _TOP), log=log)
    parts = [*_axes(x, y, unit="ms", x_unit="s")]
    parts += [
        f'<circle class="dot {colour}" cx="{x.at(at):.1f}" cy="{y.at(value):.1f}" r="2.2"/>' for at, value in dots
    ]
    return _svg(name, parts, size)


def timeline(name: str, rows: Sequence[Stretch], *, duration_s: float, width: int) -> str:
    """A row for each request: a thin line while it waits for its first token, a thick one while tokens come."""
    pitch = max(2.4, min(11.0, 620 / max(len(rows), 1)))
    height = round(_TOP + _BOTTOM + pitch * len(rows))
    x = Axis(low=0.0, high=duration_s, pixels=(_LEFT, width - _RIGHT))
    parts = [
        f'<line class="grid" x1="{x.at(t):.1f}" x2="{x.at(t):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
        f'<text class="tick" x="{x.at(t):.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">{_short(t)} s</text>'
        for t in x.ticks()
    ]
    for number, row in enumerate(rows):
        parts.append(
            f"<g><title>{escape(row.told)}</title>{''.join(_stretch(row, x, _TOP + pitch * number, pitch))}</g>"
        )
    return _svg(name, parts, (width, height))


def _stretch(row: Stretch, x: Axis, top: float, pitch: float) -> Iterator[str]:
    thick, thin = pitch * 0.78, max(0.8, pitch * 0.2)
    middle = top + pitch / 2

    def bar(colour: str, begin_s: float, end_s: float, size: float) -> str:
        left, right = x.at(begin_s), x.at(end_s)
        return (
            f'<rect class="fill {colour}" x="{left:.1f}" y="{middle - size / 2:.1f}" '
            f'width="{max(0.6, right - left):.1f}" height="{size:.1f}"/>'
        )

    if row.began_s - row.due_s > 1e-3:
        yield bar("c-queue", row.due_s, row.began_s, thin)
    yield bar("c-wait", row.began_s, row.ended_s if row.first_s is None else row.first_s, thin)
    if row.first_s is not None:
        yield bar(row.colour, row.first_s, row.ended_s, thick)
    if row.colour in ("c-failed", "c-refused"):
        yield _cross(row.colour, x.at(row.ended_s), middle, max(2.0, thick / 2))


def _cross(colour: str, at: float, middle: float, size: float) -> str:
    left, right, top, bottom = at - size, at + size, middle - size, middle + size
    path = f"M{left:.1f} {top:.1f}L{right:.1f} {bottom:.1f}M{left:.1f} {bottom:.1f}L{right:.1f} {top:.1f}"
    return f'<path class="cross {colour}" d="{path}"/>'


def _axes(x: Axis, y: Axis, *, unit: str, x_unit: str) -> Iterator[str]:
    for tick in y.ticks():
        at = y.at(tick)
        yield f'<line class="grid" x1="{x.pixels[0]}" x2="{x.pixels[1]}" y1="{at:.1f}" y2="{at:.1f}"/>'
        label = f"{_short(tick)} {unit}".strip()
        yield f'<text class="tick" x="{x.pixels[0] - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>'
    base = y.pixels[0]
    yield f'<line class="axis" x1="{x.pixels[0]}" x2="{x.pixels[1]}" y1="{base}" y2="{base}"/>'
    for tick in x.ticks():
        label = f"{_short(tick)} {x_unit}"
        yield f'<text class="tick" x="{x.at(tick):.1f}" y="{base + 18:.1f}" text-anchor="middle">{escape(label)}</text>'


def _mark(label: str, at: float, top: float, bottom: float, *, width: int) -> Iterator[str]:
    left = at > width * 0.6
    anchor, shift = ("end", -5) if left else ("start", 5)
    yield f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
    yield f'<text class="value" x="{at + shift:.1f}" y="{top + 10:.1f}" text-anchor="{anchor}">{escape(label)}</text>'


def _short(value: float) -> str:
    """A tick's number in few letters: 12000 -> 12k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _svg(name: str, parts: Sequence[str], size: tuple[int, int]) -> str:
    return (
        f'<svg class="plot-svg" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg>"
    )
