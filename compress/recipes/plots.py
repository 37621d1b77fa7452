"""Small plots as SVG text: points, lines and bars on two axes. Knows nothing of what they show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2")
TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to pixels; logarithmic where `log`."""

    label: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, label: str, values: Sequence[float], log: bool = False) -> Axis:
        """With a margin of a tenth, or of a quarter of a factor of ten."""
        low, high = min(values), max(values)
        if log:
            return cls(label, low / 1.8, high * 1.8, True)
        margin = (high - low) / 10 or abs(high) / 10 or 1.0
        return cls(label, low - margin, high + margin)

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        scale: Callable[[float], float] = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def ticks(self) -> list[float]:
        """Round values within."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / TICKS
            power = 10.0 ** math.floor(math.log10(rough))
            size = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
            first = math.ceil(self.low / size)
            steps = [(first + number) * size for number in range(2 * TICKS)]
        return [step for step in steps if self.low <= step <= self.high]


def points(x: Axis, y: Axis, named: Sequence[tuple[str, Point]]) -> str:
    """One dot with its name for each; names stand above and below in turn."""
    drawn = []
    for index, (name, (at, to)) in enumerate(named):
        px, py, colour = _x(x, at), _y(y, to), COLOURS[index % len(COLOURS)]
        anchor = "end" if px > WIDTH * 0.7 else "start"
        shift = -8 if index % 2 == 0 else 15
        drawn.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{colour}"/>')
        drawn.append(
            f'<text x="{px:.1f}" y="{py + shift:.1f}" text-anchor="{anchor}" '
            f'fill="{colour}">{escape(name)}</text>'
        )
    return _frame(x, y, drawn)


def lines(x: Axis, y: Axis, named: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """One polyline each, with a legend."""
    drawn = []
    for index, (name, path) in enumerate(named):
        colour = COLOURS[index % len(COLOURS)]
        at = " ".join(f"{_x(x, px):.1f},{_y(y, py):.1f}" for px, py in path)
        drawn.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        drawn.append(
            f'<text x="{LEFT + 8}" y="{TOP + 14 * (index + 1)}" '
            f'fill="{colour}">{escape(name)}</text>'
        )
    return _frame(x, y, drawn)


def bars(y_label: str, named: Sequence[tuple[str, float]]) -> str:
    """One bar each from zero, its name as a tooltip."""
    y = Axis(y_label, 0.0, max(value for _, value in named) * 1.1 or 1.0)
    x = Axis("layer, in the order of the network", 0, len(named))
    width = (WIDTH - LEFT - RIGHT) / len(named)
    drawn = [
        f'<rect x="{_x(x, index) + width * 0.1:.1f}" y="{_y(y, value):.1f}" '
        f'width="{width * 0.8:.1f}" height="{_y(y, 0) - _y(y, value):.1f}" fill="{COLOURS[0]}">'
        f"<title>{escape(name)}: {value:.3g}</title></rect>"
        for index, (name, value) in enumerate(named)
    ]
    return _frame(x, y, drawn)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _frame(x: Axis, y: Axis, drawn: Sequence[str]) -> str:
    bottom = HEIGHT - BOTTOM
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11">'
    ]
    for tick in x.ticks():
        at = f"{_x(x, tick):.1f}"
        parts.append(f'<line x1="{at}" y1="{TOP}" x2="{at}" y2="{bottom}" stroke="#eee"/>')
        parts.append(f'<text x="{at}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        at = f"{_y(y, tick):.1f}"
        parts.append(f'<line x1="{LEFT}" y1="{at}" x2="{WIDTH - RIGHT}" y2="{at}" stroke="#eee"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at}" dy="4" text-anchor="end">{tick:.4g}</text>')
    middle = f"{(TOP + bottom) / 2:.0f}"
    parts += [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}" '
        f'text-anchor="middle">{escape(x.label)}</text>',
        f'<text x="14" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle})">{escape(y.label)}</text>',
        *drawn,
        f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="#333"/>',
        "</svg>",
    ]
    return "".join(parts)
