"""A figure as data: axes and marks. The page draws it with plotly, papers get it from matplotlib, and its numbers go to a CSV file.

Colours are the page's CSS variables, such as "var(--accent)".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Range = tuple[float, float]

LOGARITHMIC = ("count", "flops", "plain")


@dataclass(frozen=True)
class Axis:
    """kind: "count" (4.0M), "flops" (3e17) and "plain" are logarithmic, with log10 of the ends as range; "percent" and "number" linear."""

    title: str
    kind: str
    range: Range

    @property
    def logarithmic(self) -> bool:
        return self.kind in LOGARITHMIC


@dataclass(frozen=True)
class Points:
    """Points (k,) with one colour each or one for all; `below` and `above` are error bars in y, 0 for none."""

    name: str
    x: Array
    y: Array
    colours: Sequence[str]
    hover: Sequence[str]
    group: str = ""
    below: Array | None = None
    above: Array | None = None
    symbol: str = "circle"  # or "x", "diamond"
    size: float = 8.0
    opacity: float = 1.0


@dataclass(frozen=True)
class Line:
    name: str
    x: Array
    y: Array
    colour: str
    width: float = 1.5
    group: str = ""
    hover: Sequence[str] | None = None
    dotted: bool = False


@dataclass(frozen=True)
class Band:
    """The area between two lines (x, y), where they are defined."""

    name: str
    lower: tuple[Array, Array]
    upper: tuple[Array, Array]
    group: str = ""


@dataclass(frozen=True)
class Contours:
    """Lines of equal z (len(y), len(x))."""

    name: str
    x: Array
    y: Array
    z: Array


@dataclass(frozen=True)
class Label:
    """A word in the plot, beside the point; `position` as plotly's textposition."""

    x: float
    y: float
    text: str
    position: str = "top right"


Mark = Points | Line | Band | Contours | Label


@dataclass(frozen=True)
class Chart:
    """Marks in the order they are drawn; `levels` are horizontal lines across the plot."""

    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    levels: tuple[float, ...] = ()


@dataclass(frozen=True)
class Key:
    """An entry of a figure's legend; it switches the marks of its group on and off."""

    group: str
    label: str
    colour: str
    mark: str  # "dot" or "line"


@dataclass(frozen=True)
class Figure:
    id: str
    section: str
    title: str
    caption: str  # a sentence or two that say how to read it
    label: str  # for a reader who cannot see it
    chart: Chart
    keys: tuple[Key, ...] = ()
    scale_name: str = "N"  # what the colours stand for
    sizes: tuple[Key, ...] = ()  # one for each N, or none where a colour scale shows N
    scale: tuple[str, str] | None = None  # both ends of that colour scale
    width: str = "whole"  # "half" and "third" share their line with neighbours on a wide window


def padded(values: Array, share: float = 0.06) -> Range:
    """log10 range of the values with a margin on both sides: a share of it, or 10 % where they are all alike."""
    low, high = float(np.log10(values.min())), float(np.log10(values.max()))
    margin = share * (high - low) if high - low > 0.01 else 0.04
    return low - margin, high + margin


def padded_linear(values: Array, share: float = 0.06) -> Range:
    """The range of the values with a margin on both sides."""
    low, high = float(values.min()), float(values.max())
    margin = share * (high - low) if high > low else max(0.1 * abs(low), 1e-3)
    return low - margin, high + margin


def even_levels(low: float, high: float, most: int) -> Array:
    """At most about `most` round values between low and high, evenly spaced by 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * m for m in (1, 2, 5, 10) if power * m >= rough))
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def log_ticks(low: float, high: float, gap: float) -> list[float]:
    """Round values between two powers of ten, at least `gap` of a decade apart: what the page's script chooses too."""
    start, end = 10.0**low, 10.0**high
    powers = [10.0**k for k in range(int(np.floor(low)), int(np.floor(high)) + 1)]
    for digits in ((1, 2, 5), (1, 3), (1,)):
        values = [digit * power for power in powers for digit in digits if start <= digit * power <= end]
        if len(values) >= 3 and np.diff(np.log10(values)).min() >= gap:
            return values
    if len(values) >= 2:
        return values[:: int(np.ceil(gap))]
    return [float(value) for value in even_levels(start, end, 7)]
