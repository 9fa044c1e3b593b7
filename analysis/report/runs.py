"""The runs as the figures draw them: a colour for each N, legend groups, hover texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..tables.table import RunTable
from .chart import Array, Key, Points
from .numbers import count, counts, flops
from .theme import shade

Which = npt.NDArray[np.intp]

MOST_ROWS = 10  # more distinct N than this: a colour scale instead of one legend entry per N
MOST_DRAWN = 3000  # more points make a page heavy and hide each other
CURVES = 6  # fitted curves drawn where there are too many N for one each


class Runs:
    """The table as the figures need it."""

    def __init__(self, table: RunTable) -> None:
        self.N, self.D, self.loss = table.N, table.D, table.loss
        self.C = 6.0 * table.N * table.D
        se = table.frame.get(f"{table.loss_col}_se")
        numbers = (
            np.zeros(len(self.N))
            if se is None
            else pd.to_numeric(se, errors="coerce").to_numpy(dtype=float, na_value=0.0)
        )
        self.bars: Array = np.nan_to_num(1.96 * numbers)
        self.drawn = np.linspace(0, len(self.N) - 1, min(MOST_DRAWN, len(self.N))).round().astype(int)
        self.sizes = np.unique(table.N)
        self.by_row = len(self.sizes) <= MOST_ROWS
        self.curve_sizes = self.sizes if self.by_row else np.geomspace(self.sizes[0], self.sizes[-1], CURVES)
        self.labels = dict(zip(self.sizes, counts(self.sizes.tolist()), strict=True))

    def colour(self, N: float) -> str:
        """By rank where each N has its own legend entry, so that neighbours differ; else by log N."""
        if len(self.sizes) == 1:
            return shade(0.5)
        if self.by_row:
            return shade(float(np.searchsorted(self.sizes, N)) / (len(self.sizes) - 1))
        return shade(float(np.log(N / self.sizes[0]) / np.log(self.sizes[-1] / self.sizes[0])))

    def group(self, N: float) -> str:
        """The legend group of the curve at N."""
        return f"N{np.searchsorted(self.sizes, N)}" if self.by_row else "curves"

    def points(
        self, x: Array, y: Array, *, residuals: Array | None = None, bars: bool = False, rows: Which | None = None
    ) -> tuple[Points, ...]:
        """The runs `rows` (those to be drawn) at x, y (n,), one mark for each legend group; `bars` are 95 % error bars in y."""
        chosen = self.drawn if rows is None else rows
        marks = []
        for group, name, at in self._groups(chosen):
            error = self.bars[at] if bars else None
            marks.append(
                Points(name, x[at], y[at], [self.colour(self.N[i]) for i in at], self.hover(at, residuals), group,
                       error, error, size=8 if len(chosen) <= 60 else 6)
            )  # fmt: skip
        return tuple(marks)

    def hover(self, rows: Which, residuals: Array | None = None) -> list[str]:
        texts = []
        for i in rows:
            bar = f" ± {self.bars[i]:.3f}" if self.bars[i] > 0 else ""
            text = f"N {count(self.N[i])}, D {count(self.D[i])}<br>loss {self.loss[i]:.3f}{bar}<br>C {flops(self.C[i])}"
            texts.append(text if residuals is None else f"{text}<br>residual {100 * residuals[i]:+.1f} %")
        return texts

    def legend(self, law: bool) -> Legend:
        """What a figure of the runs says of their colours; `law`: curves of the law are drawn beside them."""
        if self.by_row:
            keys = tuple(Key(self.group(N), self.labels[N], self.colour(N), "dot") for N in self.sizes)
            return Legend((), keys, None)
        curves = (Key("curves", "fitted law", "var(--muted)", "line"),) if law else ()
        ends = count(self.sizes[0]), count(self.sizes[-1])
        return Legend((Key("runs", "runs", "var(--muted)", "dot"), *curves), (), ends)

    def _groups(self, rows: Which) -> Sequence[tuple[str, str, Which]]:
        """(legend group, name, rows) of each N; all runs in one where a colour scale shows N."""
        if not self.by_row:
            return [("runs", "runs", rows)]
        found = [(self.group(N), f"N {self.labels[N]}", rows[self.N[rows] == N]) for N in self.sizes]
        return [(group, name, at) for group, name, at in found if len(at)]


@dataclass(frozen=True)
class Legend:
    """`keys` of the marks, `sizes` of each N or, where there are too many, both ends of the colour `scale`."""

    keys: tuple[Key, ...]
    sizes: tuple[Key, ...]
    scale: tuple[str, str] | None
