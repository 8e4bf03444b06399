"""Plots as SVG text: bars of medians, a mark for each round. Colours come from the page's style. [no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_ROW, _BAR, _LABEL, _PLOT, _VALUE, _TOP = 34, 16, 270, 460, 130, 8
_LETTERS = 33  # that the label column has room for


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A label, the values of the rounds, and the class of its colour. strong: a label in bold."""

    label: str
    values: tuple[float, ...]
    median: float
    colour: str
    strong: bool = False


def bars(name: str, bars_of: Sequence[Bar], *, unit: str) -> str:
    """One SVG, a bar for each entry up to its median with a mark for each round; "" of nothing.

    It scales with the page. The numbers stand beside the bars, so that nothing is told by length or colour alone.
    """
    if not bars_of:
        return ""
    most = max(max(bar.values) for bar in bars_of) or 1.0
    height = _TOP + _ROW * len(bars_of) + 4
    parts = [
        f'<svg class="bars" viewBox="0 0 {_LABEL + _PLOT + _VALUE} {height}" role="img" aria-label="{escape(name)}">',
        f"<title>{escape(name)}</title>",
        f'<line class="axis" x1="{_LABEL}" y1="{_TOP - 4}" x2="{_LABEL}" y2="{height - 4}"/>',
    ]
    for number, bar in enumerate(bars_of):
        parts += _bar(bar, y=_TOP + number * _ROW, scale=_PLOT / most, unit=unit)
    return "".join([*parts, "</svg>"])


def _bar(bar: Bar, *, y: int, scale: float, unit: str) -> list[str]:
    middle = y + _ROW / 2
    text_y = middle + 4.5
    label = bar.label if len(bar.label) <= _LETTERS else f"{bar.label[: _LETTERS - 1]}…"
    told = f"{bar.median:.4g} {unit}"
    rounds = ", ".join(f"{value:.4g}" for value in bar.values)
    parts = [
        f"<g><title>{escape(f'{bar.label}: {told}, rounds {rounds}')}</title>",
        f'<text class="label{" strong" if bar.strong else ""}" x="{_LABEL - 10}" y="{text_y}" text-anchor="end">'
        f"{escape(label)}</text>",
        f'<rect class="{escape(bar.colour)}" x="{_LABEL}" y="{middle - _BAR / 2}" '
        f'width="{max(1.0, bar.median * scale):.1f}" height="{_BAR}" rx="2"/>',
    ]
    if len(bar.values) > 1:
        parts += [
            f'<line class="mark" x1="{_LABEL + value * scale:.1f}" x2="{_LABEL + value * scale:.1f}" '
            f'y1="{middle - _BAR / 2 - 3}" y2="{middle + _BAR / 2 + 3}"/>'
            for value in bar.values
        ]
    end = _LABEL + max(bar.median, *bar.values) * scale + 8
    parts.append(f'<text class="value" x="{end:.1f}" y="{text_y}">{escape(told)}</text></g>')
    return parts
