"""One plot with both axes logarithmic, drawn with Pillow, which vLLM brings along: there is no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from PIL import Image, ImageDraw, ImageFont

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


def growth_plot(series: Sequence[Series], *, title: str, x: str, y: str) -> Image.Image:
    across = _axis([point[0] for one in series for point in one.points], LEFT, WIDTH - RIGHT)
    up = _axis([point[1] for one in series for point in one.points], HEIGHT - BOTTOM, TOP)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    _text(draw, LEFT, 14, title, "lm")
    _text(draw, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x, "mm")
    _text(draw, 8, 14, y, "lm")
    _grid(draw, across, up)
    for number, one in enumerate(series):
        _line(draw, one, across, up, COLOURS[number % len(COLOURS)])
    return image


def _axis(values: Sequence[float], begin: float, end: float) -> _Axis:
    first, last = floor(log10(min(values))), ceil(log10(max(values)))
    return _Axis(first=first, last=max(last, first + 1), begin=begin, end=end)


def _grid(draw: ImageDraw.ImageDraw, across: _Axis, up: _Axis) -> None:
    for value in across.ticks():
        at = across.at(value)
        draw.line([(at, up.begin), (at, up.end)], fill="#dddddd")
        _text(draw, at, up.begin + 14, f"{value:g}", "mm")
    for value in up.ticks():
        at = up.at(value)
        draw.line([(across.begin, at), (across.end, at)], fill="#dddddd")
        _text(draw, across.begin - 8, at, f"{value:g}", "rm")


def _line(draw: ImageDraw.ImageDraw, series: Series, across: _Axis, up: _Axis, colour: str) -> None:
    places = [(across.at(x), up.at(y)) for x, y in series.points]
    draw.line(places, fill=colour, width=2)
    for x, y in places:
        draw.ellipse([(x - 3, y - 3), (x + 3, y + 3)], fill=colour)
    _text(draw, places[-1][0] + 8, places[-1][1], series.name, "lm", colour)


def _text(draw: ImageDraw.ImageDraw, x: float, y: float, words: str, anchor: str, colour: str = "#222222") -> None:
    draw.text((x, y), words, fill=colour, anchor=anchor, font=ImageFont.load_default(size=13))
