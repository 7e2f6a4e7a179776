"""One plot with both axes logarithmic, as an SVG of a few lines: no plotting library is installed with the product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 90, 40, 50
COLOURS = ("#1f6f8b", "#c8553d", "#6a994e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """`points` are (x, y), both above 0, ascending in x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """Whole powers of ten from `first` to `last`, drawn from `begin` to `end`."""

    first: int
    last: int
    begin: float
    end: float

    def at(self, value: float) -> float:
        return self.begin + (log10(value) - self.first) / (self.last - self.first) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.first, self.last + 1)]


def growth_plot(series: Sequence[Series], *, title: str, x: str, y: str) -> str:
    across = _axis([point[0] for one in series for point in one.points], LEFT, WIDTH - RIGHT)
    up = _axis([point[1] for one in series for point in one.points], HEIGHT - BOTTOM, TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"',
        '  font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, TOP - 16, title),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x, anchor="middle"),
        _text(12, TOP - 16, y),
        *_grid(across, up),
    ]
    for number, one in enumerate(series):
        lines += _line(one, across, up, COLOURS[number % len(COLOURS)])
    return "\n".join([*lines, "</svg>", ""])


def _axis(values: Sequence[float], begin: float, end: float) -> _Axis:
    first, last = floor(log10(min(values))), ceil(log10(max(values)))
    return _Axis(first=first, last=max(last, first + 1), begin=begin, end=end)


def _grid(across: _Axis, up: _Axis) -> Iterator[str]:
    for value in across.ticks():
        at = across.at(value)
        yield f'<line x1="{at:.1f}" y1="{up.begin}" x2="{at:.1f}" y2="{up.end}" stroke="#ddd"/>'
        yield _text(at, up.begin + 18, f"{value:g}", anchor="middle")
    for value in up.ticks():
        at = up.at(value)
        yield f'<line x1="{across.begin}" y1="{at:.1f}" x2="{across.end}" y2="{at:.1f}" stroke="#ddd"/>'
        yield _text(across.begin - 8, at + 4, f"{value:g}", anchor="end")


def _line(series: Series, across: _Axis, up: _Axis, colour: str) -> Iterator[str]:
    places = [(across.at(x), up.at(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
    last_x, last_y = places[-1]
    yield _text(last_x + 8, last_y + 4, series.name, colour=colour)


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
