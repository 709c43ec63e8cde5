"""Charts of a page as inline SVG. Colors are classes of the page's style sheet.

Each chart is drawn for the width of a phone; wider screens show several side by side. Series differ
by shape or line as well as by color.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llava_st_ros.evaluation.report_page.texts import clean, number, plural

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 330, 200
LEFT, RIGHT, TOP, BOTTOM = 38, 16, 26, 38  # margins of the plot
BINS = 10
SMALLEST = 1e-9  # range of an axis
SHAPES = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        svg: The drawing.
        title: What it shows.
        summary: The same in words, for people who do not see it.
    """

    svg: Markup
    title: str
    summary: str


@dataclass(frozen=True)
class Point:
    """A point of a scatter chart, with the words that its tooltip shows."""

    x: float
    y: float
    series: str
    label: str


@dataclass(frozen=True)
class AxisTick:
    """A tick of an axis: its place in percent, and its label."""

    percent: float
    label: str


def tick_values(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most ``most`` + 1 round values in [low, high].

    >>> tick_values(0, 1), tick_values(0, 23), tick_values(3, 3)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 5.0, 10.0, 15.0, 20.0], [3.0])
    """
    if not high > low:
        return [float(low)]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def round_range(values: Sequence[float]) -> tuple[float, float]:
    """Return a range of round numbers that contains the values, from 0 if none is negative."""
    low, high = min(min(values), 0.0), max(values)
    if high - low < SMALLEST:
        high = low + 1.0
    ticks = tick_values(low, high)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def interval_bar(value: float, low: float, high: float, blind: float | None) -> Markup:
    """Draw a figure in [0, 1] with its interval, and the blind baseline as a hollow mark."""
    from markupsafe import Markup

    if any(math.isnan(v) or not 0 <= v <= 1 for v in (value, low, high)):
        return Markup("")

    def x(v: float) -> float:
        return 4 + 112 * v

    mark = ""
    if blind is not None and 0 <= blind <= 1:
        mark = f'<path class="blind" d="M{x(blind):.1f} 3v12"/>'
    return Markup(  # numbers only
        '<svg class="interval" viewBox="0 0 120 18" width="120" height="18" aria-hidden="true">'
        '<path class="axis" d="M4 9H116M4 6v6M60 7v4M116 6v6"/>'
        f'<path class="range" d="M{x(low):.1f} 9H{x(high):.1f}"/>{mark}'
        f'<circle class="value" cx="{x(value):.1f}" cy="9" r="4"/></svg>'
    )


def difference_bar(value: float, low: float, high: float, scale: float) -> Markup:
    """Draw a difference with its interval on an axis from -scale to +scale."""
    from markupsafe import Markup

    if any(math.isnan(v) for v in (value, low, high)):
        return Markup("")

    def x(v: float) -> float:
        return 60 + 56 * max(-1.0, min(1.0, v / scale))

    return Markup(  # numbers only
        '<svg class="interval" viewBox="0 0 120 18" width="120" height="18" aria-hidden="true">'
        '<path class="axis" d="M4 9H116"/><path class="zero" d="M60 2v14"/>'
        f'<path class="range" d="M{x(low):.1f} 9H{x(high):.1f}"/>'
        f'<circle class="value" cx="{x(value):.1f}" cy="9" r="4"/></svg>'
    )


def histogram(
    values: Sequence[float], title: str, axis: str, unit: str = "", *, share: bool = False
) -> Chart:
    """Draw the distribution of values.

    Args:
        values: Finite numbers, at least one.
        title: What is drawn.
        axis: What the values are.
        unit: Their unit.
        share: Whether they are in [0, 1], and the axis too.
    """
    low, high = (0.0, 1.0) if share else round_range(values)
    counts, edges = np.histogram(np.clip(values, low, high), bins=BINS, range=(low, high))
    top = int(counts.max())
    plot = _Plot((low, high), (0.0, float(top)))
    parts = [plot.x_axis(axis, unit), plot.y_axis("", integers=True)]
    for count, start, end in zip(counts, edges, edges[1:]):
        if not count:
            continue
        x, y = plot.x(start) + 1, plot.y(count)
        width, height = plot.x(end) - plot.x(start) - 2, plot.y(0) - y
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
            f'<text class="count" x="{x + width / 2:.1f}" y="{y - 3:.1f}">{count}</text>'
        )
    summary = (
        f"{title}: {plural(len(values), 'value')}, minimum {number(min(values), unit)}, "
        f"median {number(float(np.median(values)), unit)}, maximum {number(max(values), unit)}"
    )
    return Chart(plot.svg(parts, summary), title, summary)


def scatter(points: Sequence[Point], title: str, x_label: str, x_unit: str, y_label: str) -> Chart:
    """Draw points, y in [0, 1]; series differ in shape."""
    series = list(dict.fromkeys(point.series for point in points))
    high = max(round_range([point.x for point in points])[1], 1e-9)
    plot = _Plot((0.0, high), (0.0, 1.0))
    parts = [plot.x_axis(x_label, x_unit), plot.y_axis(y_label)]
    parts += [
        _mark(
            series.index(p.series), plot.x(p.x), plot.y(p.y), f"<title>{_escaped(p.label)}</title>"
        )
        for p in points
    ]
    xs, ys = [point.x for point in points], [point.y for point in points]
    summary = (
        f"{title}: {plural(len(points), 'point')}; {x_label} {number(min(xs), x_unit)} to "
        f"{number(max(xs), x_unit)}, {y_label} {number(min(ys))} to {number(max(ys))}"
    )
    return Chart(plot.svg(parts, summary), title, summary)


def paired_scatter(points: Sequence[Point], title: str) -> Chart:
    """Draw values of run A and run B, both in [0, 1], with the diagonal where they are equal."""
    plot = _Plot((0.0, 1.0), (0.0, 1.0))
    diagonal = f"M{plot.x(0):.1f} {plot.y(0):.1f}L{plot.x(1):.1f} {plot.y(1):.1f}"
    parts = [plot.x_axis("A", ""), plot.y_axis("B"), f'<path class="axis" d="{diagonal}"/>']
    parts += [
        _mark(0, plot.x(p.x), plot.y(p.y), f"<title>{_escaped(p.label)}</title>") for p in points
    ]
    above, below = (sum(sign * (p.y - p.x) > 0 for p in points) for sign in (1, -1))
    summary = (
        f"{title}: {plural(len(points), 'case')}; larger in B {above}, larger in A {below}, "
        f"equal {len(points) - above - below}"
    )
    return Chart(plot.svg(parts, summary), title, summary)


def legend(series: Iterable[str]) -> list[tuple[str, Markup]]:
    """Return the name and the drawn mark of each series of a scatter chart."""
    from markupsafe import Markup

    return [
        (
            name,
            Markup(  # numbers only
                '<svg class="mark" width="14" height="14" aria-hidden="true">'
                f"{_mark(kind, 7, 7)}</svg>"
            ),
        )
        for kind, name in enumerate(dict.fromkeys(series))
    ]


@dataclass(frozen=True)
class Lane:
    """One lane of a timeline: bars from start to end, in [0, 1], and where there are boxes."""

    bars: tuple[tuple[float, float], ...]
    boxes: tuple[tuple[float, float], ...] = ()


def timeline(expected: Lane, predicted: Lane) -> Markup:
    """Draw true spans (outlined, dashed) above predicted ones (filled); thin lines are boxes."""
    from markupsafe import Markup

    parts = []
    for kind, lane, top in (("true", expected, 2), ("pred", predicted, 22)):
        parts.append(f'<path class="axis" d="M0 {top + 8}H1000"/>')
        for name, intervals, y, height in (
            (kind, lane.bars, top, 11),
            (f"{kind} boxes", lane.boxes, top + 13, 3),
        ):
            for start, end in intervals:
                width = max(4.0, 1000 * (end - start))
                left = min(1000 * start, 1000 - width)
                parts.append(
                    f'<rect class="{name}" x="{left:.1f}" y="{y}" width="{width:.1f}" '
                    f'height="{height}"/>'
                )
    return Markup(  # numbers only
        '<svg class="timeline" viewBox="0 0 1000 40" preserveAspectRatio="none" '
        f'aria-hidden="true">{"".join(parts)}</svg>'
    )


def share_bar(share: float, whisker: float) -> Markup:
    """Draw a share of a width as a bar, and a second one as a line from its end."""
    from markupsafe import Markup

    a, b = (100 * min(1.0, max(0.0, v)) for v in (share, whisker))
    return Markup(  # numbers only
        '<svg class="share" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="bar" x="0" y="1" width="{a:.1f}" height="10"/>'
        f'<path class="whisker" d="M{a:.1f} 6H{b:.1f}M{b:.1f} 2v8"/></svg>'
    )


def _mark(series: int, x: float, y: float, title: str = "") -> str:
    """The mark of a series, with its tooltip as an element."""
    kind = series % len(SHAPES)
    return f'<g class="point s{kind}">{title}{_shape(SHAPES[kind], x, y)}</g>'


def _shape(name: str, x: float, y: float) -> str:
    if name == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    if name == "triangle":
        return f'<path d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>'
    if name == "diamond":
        return f'<path d="M{x:.1f} {y - 6:.1f}l5 6l-5 6l-5 -6z"/>'
    if name == "cross":
        return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


class _Plot:
    """The axes of a chart."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self._x, self._y = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self._x
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self._y
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    def x_axis(self, label: str, unit: str) -> str:
        base = HEIGHT - BOTTOM
        parts = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>']
        for value in tick_values(*self._x, most=5):
            parts.append(
                f'<path class="axis" d="M{self.x(value):.1f} {base}v4"/>'
                f'<text class="tick" x="{self.x(value):.1f}" y="{base + 16}">{value:g}</text>'
            )
        name = f"{label} ({unit})" if label and unit else label or unit
        parts.append(
            f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}">'
            f"{_escaped(_short(name))}</text>"
        )
        return "".join(parts)

    def y_axis(self, label: str, *, integers: bool = False) -> str:
        parts = []
        for value in tick_values(*self._y, most=4):
            if integers and value != int(value):
                continue
            y = self.y(value)
            parts.append(
                f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
                f'<text class="tick left" x="{LEFT - 5}" y="{y + 4:.1f}">{value:g}</text>'
            )
        if label:
            parts.append(f'<text class="name start" x="4" y="10">{_escaped(_short(label))}</text>')
        return "".join(parts)

    def svg(self, parts: Iterable[str], summary: str) -> Markup:
        from markupsafe import Markup

        return Markup(  # numbers, and escaped texts
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{_escaped(summary)}">{"".join(parts)}</svg>'
        )


def _escaped(text: str) -> Markup:
    from markupsafe import escape

    return escape(clean(text))


def _short(text: str, most: int = 46) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
