"""What the figures share: the runs with their colours and hover texts, the bare plot, and the marks drawn on it.

Colours are the page's CSS variables: its script puts in those of a light or a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.colors
import plotly.graph_objects as go

from ..table import RunTable
from .numbers import count, counts, flops

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Range = tuple[float, float]
Curve = tuple[float, Array, Array]  # N, and the x and y of its line

SHADES = 13
MOST_ROWS = 10  # more distinct N than this: a colour scale instead of one legend entry per N
CURVES = 6  # fitted curves drawn where there are too many N for one each


def palettes() -> tuple[list[str], list[str]]:
    """SHADES colours from small to large N for a light and a dark page: viridis less the end that the page would swallow."""
    light = plotly.colors.sample_colorscale("Viridis", list(np.linspace(0.0, 0.78, SHADES)))
    dark = plotly.colors.sample_colorscale("Viridis", list(np.linspace(0.3, 1.0, SHADES)))
    return light, dark


class Runs:
    """The table as the figures need it: its rows by N, a colour for each, hover texts."""

    def __init__(self, table: RunTable) -> None:
        self.N, self.D, self.loss = table.N, table.D, table.loss
        self.C = 6.0 * table.N * table.D
        se = table.frame.get(f"{table.loss_col}_se")
        self.bars: Array = np.zeros(len(self.N)) if se is None else np.nan_to_num(1.96 * se.to_numpy(dtype=float))
        self.sizes = np.unique(table.N)
        self.by_row = len(self.sizes) <= MOST_ROWS
        self.curve_sizes = self.sizes if self.by_row else np.geomspace(self.sizes[0], self.sizes[-1], CURVES)
        self.labels = dict(zip(self.sizes, counts(self.sizes.tolist()), strict=True))

    def colour(self, N: float) -> str:
        """By rank where each N has its own legend entry, so that neighbours differ; else by log N."""
        if len(self.sizes) == 1:
            return f"var(--n-{SHADES // 2})"
        if self.by_row:
            place = np.searchsorted(self.sizes, N) / (len(self.sizes) - 1)
        else:
            place = np.log(N / self.sizes[0]) / np.log(self.sizes[-1] / self.sizes[0])
        return f"var(--n-{round(float(place) * (SHADES - 1))})"

    def group(self, N: float) -> str:
        """The legend group of the curve at N."""
        return f"N{np.searchsorted(self.sizes, N)}" if self.by_row else "curves"

    def groups(self) -> list[tuple[str, Rows]]:
        """(legend group, rows) of each N; all runs in one where a colour scale shows N."""
        if not self.by_row:
            return [("runs", np.arange(len(self.N)))]
        return [(self.group(N), np.flatnonzero(self.N == N)) for N in self.sizes]

    def hover(self, rows: Rows, residuals: Array | None) -> list[str]:
        texts = []
        for i in rows:
            bar = f" ± {self.bars[i]:.3f}" if self.bars[i] > 0 else ""
            text = f"N {count(self.N[i])}, D {count(self.D[i])}<br>loss {self.loss[i]:.3f}{bar}<br>C {flops(self.C[i])}"
            texts.append(text if residuals is None else f"{text}<br>residual {100 * residuals[i]:+.1f} %")
        return texts


def bare_plot(x: Range, y: Range, x_title: str, y_title: str, ticks: tuple[str, str]) -> go.Figure:
    """An empty plot over ranges (log10 of the ends on a log axis).

    `ticks` names how the page's script labels each axis ("count", "flops", "plain": logarithmic ones; "percent": linear): it chooses
    the ticks when it knows the width, and again on zooming.
    """
    axis = {"showline": True, "linewidth": 1, "linecolor": "var(--axis)", "gridcolor": "var(--grid)", "zeroline": False, "automargin": False,
            "ticks": "outside", "ticklen": 4, "tickcolor": "var(--axis)", "tickangle": 0}  # fmt: skip
    kinds = ["linear" if kind == "percent" else "log" for kind in ticks]
    plot = go.Figure()
    plot.update_layout(
        template={}, meta={"xaxis": ticks[0], "yaxis": ticks[1]}, margin={"l": 52, "r": 18, "t": 28, "b": 52},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"size": 13, "color": "var(--muted)"},
        showlegend=False, hovermode="closest",
        hoverlabel={"align": "left", "bgcolor": "var(--card)", "bordercolor": "var(--axis)", "font": {"color": "var(--ink)", "size": 13}},
        xaxis={**axis, "type": kinds[0], "range": list(x), "title": {"text": x_title, "standoff": 8, "font": {"size": 13}}},
        yaxis={**axis, "type": kinds[1], "range": list(y), "nticks": 7},
    )  # fmt: skip
    # The title of the y axis lies above the plot, where it is read without turning the head and takes no width from a phone.
    plot.add_annotation(
        text=y_title, xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom", xshift=-50, yshift=6,
        showarrow=False, align="left",
    )  # fmt: skip
    return plot


def add_points(
    plot: go.Figure, runs: Runs, x: Array, y: Array, residuals: Array | None = None, bars: bool = False
) -> None:
    """The runs, one trace for each legend group; `bars` are 95 % error bars in y."""
    size = 8 if len(x) <= 60 else 6
    for group, rows in runs.groups():
        error = {"array": runs.bars[rows].tolist(), "thickness": 1, "width": 2, "color": "var(--axis)"}
        plot.add_scatter(
            x=x[rows].tolist(), y=y[rows].tolist(), mode="markers", legendgroup=group,
            marker={"size": size, "color": [runs.colour(runs.N[i]) for i in rows], "line": {"color": "var(--card)", "width": 1}},
            error_y=error if bars else None, text=runs.hover(rows, residuals), hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip


def add_curves(plot: go.Figure, runs: Runs, curves: Sequence[Curve]) -> None:
    for N, x, y in curves:
        add_line(plot, x, y, runs.group(N), runs.colour(N), 1.5)


def add_line(
    plot: go.Figure, x: Array, y: Array, group: str, colour: str, width: float, hover: list[str] | None = None
) -> None:
    shown = {"hoverinfo": "skip"} if hover is None else {"text": hover, "hovertemplate": "%{text}<extra></extra>"}
    line = {"color": colour, "width": width, "simplify": False}
    plot.add_scatter(x=x.tolist(), y=y.tolist(), mode="lines", legendgroup=group, line=line, **shown)


def add_label(plot: go.Figure, x: float, y: float, text: str, position: str) -> None:
    """A word in the plot, beside the point."""
    plot.add_scatter(
        x=[x], y=[y], mode="text", text=[text], textposition=position, textfont={"size": 12, "color": "var(--muted)", "shadow": "0 0 3px var(--card), 0 0 3px var(--card)"},
        hoverinfo="skip", cliponaxis=True,
    )  # fmt: skip


def add_band(plot: go.Figure, lower: tuple[Array, Array], upper: tuple[Array, Array]) -> None:
    """The area between two lines (x, y), where they are defined."""
    x, y = (np.concatenate([low, high[::-1]]) for low, high in zip(lower, upper, strict=True))
    defined = np.isfinite(x) & np.isfinite(y)
    plot.add_scatter(
        x=x[defined].tolist(), y=y[defined].tolist(), mode="lines", fill="toself", fillcolor="var(--band)", line={"width": 0}, hoverinfo="skip", legendgroup="frontier"
    )  # fmt: skip


def padded(values: Array, share: float = 0.06) -> Range:
    """log10 range of the values with a margin on both sides: a share of it, or 10 % where they are all alike."""
    low, high = float(np.log10(values.min())), float(np.log10(values.max()))
    margin = share * (high - low) if high - low > 0.01 else 0.04
    return low - margin, high + margin


def even_levels(low: float, high: float, most: int) -> Array:
    """At most about `most` round values between low and high, evenly spaced by 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * m for m in (1, 2, 5, 10) if power * m >= rough))
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
