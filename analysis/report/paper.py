"""The figures for a paper: each as PNG, SVG and CSV, drawn by matplotlib from the same data as on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from ..study import Study
from .chart import Axis, Band, Chart, Contours, Figure, Label, Line, Mark, Points, log_ticks
from .content import Content
from .figures import figures
from .heldout import held_out
from .interactive import contour_levels, outline
from .theme import SHADES, on_paper, palettes

SIZES = {"whole": (6.6, 4.0), "half": (4.4, 3.4), "third": (3.3, 2.8)}  # inches
DOTS_PER_INCH = 200
MARKERS = {"circle": "o", "x": "X", "diamond": "D"}
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
SUFFIXES = (".png", ".svg", ".csv")


def write_figures(folder: Path, study: Study) -> list[Path]:
    """Every figure of the study as NAME.png, NAME.svg and NAME.csv in `folder`, made if need be; returns their paths.

    Raises:
        OSError: a file cannot be written.
    """
    return _write_charts(folder, figures(study.table, study.fit, study, held_out(study)))


def write_files(folder: Path, content: Content) -> list[Path]:
    """The same of what a page shows, and its LaTeX files; figures that an older report left there are removed. Raises OSError."""
    written = _write_charts(folder, content.figures)
    for name, text in (content.texts.files if content.texts else {}).items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    for old in folder.iterdir():
        if old.suffix in SUFFIXES and old not in written:
            old.unlink()
    return written


def _write_charts(folder: Path, made: Sequence[Figure]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    palette = palettes()["light"]
    written = []
    for figure in made:
        png, svg, csv = (folder / f"{figure.id}{suffix}" for suffix in SUFFIXES)
        with matplotlib.rc_context(
            {
                "font.size": 8,
                "axes.linewidth": 0.6,
                "svg.hashsalt": "sixnd",
                "axes.spines.top": False,
                "axes.spines.right": False,
            }
        ):
            canvas = draw(figure, palette)
            canvas.savefig(png, dpi=DOTS_PER_INCH, metadata={"Software": None})
            canvas.savefig(svg, metadata={"Date": None, "Creator": None})
        data(figure.chart).to_csv(csv, index=False, float_format="%.8g")
        written += [png, svg, csv]
    return written


def draw(figure: Figure, palette: Mapping[str, str]) -> Canvas:
    """The figure without a title: a paper has captions."""
    chart = figure.chart
    canvas = Canvas(figsize=SIZES[figure.width], layout="constrained")
    axes = canvas.add_subplot()
    axes.grid(color=on_paper("grid", palette), linewidth=0.5)
    axes.set_axisbelow(True)
    for level in chart.levels:
        axes.axhline(level, color=on_paper("muted", palette), linewidth=0.8, zorder=1)
    _dress(axes, chart, canvas.get_figwidth() - 0.8, canvas.get_figheight() - 0.7)
    for order, mark in enumerate(chart.marks, start=2):
        _add(axes, mark, order, palette)
    _explain(canvas, axes, figure, palette)
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")  # laid out now, not again for each file
    return canvas


def data(chart: Chart) -> pd.DataFrame:
    """The numbers of the chart, a row for each point: its series, x, y, the ends of its bar or band, and z of contours."""
    parts = []
    for mark in chart.marks:
        match mark:
            case Points():
                low, high = (
                    None if reach is None else mark.y + sign * reach
                    for sign, reach in ((-1, mark.below), (1, mark.above))
                )
                parts.append(pd.DataFrame({"series": mark.name, "x": mark.x, "y": mark.y, "low": low, "high": high}))
            case Line():
                parts.append(pd.DataFrame({"series": mark.name, "x": mark.x, "y": mark.y}))
            case Band():
                for end, (x, y) in (("low", mark.lower), ("high", mark.upper)):
                    parts.append(pd.DataFrame({"series": f"{mark.name}, {end} end", "x": x, "y": y}))
            case Contours():
                x, y = np.meshgrid(mark.x, mark.y)
                parts.append(pd.DataFrame({"series": mark.name, "x": x.ravel(), "y": y.ravel(), "z": mark.z.ravel()}))
    table = pd.concat(parts, ignore_index=True).dropna(axis=1, how="all")
    return table.rename(columns={"x": chart.x.title, "y": chart.y.title})


def _dress(axes: Axes, chart: Chart, width: float, height: float) -> None:
    """Scales, ranges, titles and ticks; a label takes about so many inches of an axis."""
    axes.set_xscale("log" if chart.x.logarithmic else "linear")
    axes.set_yscale("log" if chart.y.logarithmic else "linear")
    axes.set_xlim(*_ends(chart.x))
    axes.set_ylim(*_ends(chart.y))
    axes.set_xlabel(chart.x.title)
    axes.set_ylabel(chart.y.title)
    for part, axis, length, each in ((axes.xaxis, chart.x, width, 0.42), (axes.yaxis, chart.y, height, 0.2)):
        if axis.logarithmic:
            low, high = axis.range
            values = log_ticks(low, high, each * (high - low) / length)
            part.set_major_locator(FixedLocator(values))
            part.set_major_formatter(FixedFormatter([_tick(axis.kind, value) for value in values]))
            part.set_minor_locator(NullLocator())


def _ends(axis: Axis) -> tuple[float, float]:
    low, high = axis.range
    return (10.0**low, 10.0**high) if axis.logarithmic else (low, high)


def _tick(kind: str, value: float) -> str:
    if kind == "flops":
        return (
            f"{value:.2e}".replace("+", "")
            .replace("e0", "e")
            .replace("e-0", "e-")
            .replace(".00e", "e")
            .replace("0e", "e")
        )
    if kind == "count":
        scale, unit = next((pair for pair in UNITS if value >= 0.9999 * pair[0]), (1.0, ""))
        return f"{value / scale:.4g}{unit}"
    return f"{value:.6g}"


def _add(axes: Axes, mark: Mark, order: int, palette: Mapping[str, str]) -> None:
    match mark:
        case Points():
            if mark.below is not None and mark.above is not None:
                axes.errorbar(mark.x, mark.y, [mark.below, mark.above], fmt="none", ecolor=on_paper("axis", palette), elinewidth=0.6, zorder=order)  # fmt: skip
            axes.scatter(
                mark.x, mark.y, s=(0.45 * mark.size) ** 2, c=[on_paper(colour, palette) for colour in mark.colours],
                marker=MARKERS[mark.symbol], alpha=None if mark.opacity == 1 else mark.opacity, linewidths=0, zorder=order,
            )  # fmt: skip
        case Line():
            style = ":" if mark.dotted else "-"
            axes.plot(
                mark.x, mark.y, style, color=on_paper(mark.colour, palette), linewidth=0.6 * mark.width, zorder=order
            )
        case Band():
            axes.fill(*outline(mark), color=on_paper("band", palette), linewidth=0, zorder=order)
        case Contours():
            lines = axes.contour(mark.x, mark.y, mark.z, contour_levels(mark), colors=[on_paper("contour", palette)], linewidths=0.6, zorder=order)  # fmt: skip
            axes.clabel(lines, fontsize=6, colors=[on_paper("muted", palette)])
        case Label():
            right, top = "right" in mark.position, "top" in mark.position
            axes.annotate(
                mark.text, (mark.x, mark.y), fontsize=6, color=on_paper("muted", palette), clip_on=True, zorder=order,
                ha="left" if right else "right", va="bottom" if top else "top",
            )  # fmt: skip


def _explain(canvas: Canvas, axes: Axes, figure: Figure, palette: Mapping[str, str]) -> None:
    """The legend below the plot, and the colour scale where there are too many N for entries."""
    keys = [*figure.keys, *figure.sizes]
    if keys:
        handles = [
            Line2D([], [], color=on_paper(key.colour, palette), linewidth=1.4 if key.mark == "line" else 0,
                   marker="" if key.mark == "line" else "o", markersize=4)
            for key in keys
        ]  # fmt: skip
        names = [key.label for key in figure.keys]
        names += [f"{figure.scale_name} {key.label}" if k == 0 else key.label for k, key in enumerate(figure.sizes)]
        columns = max(2, int(canvas.get_figwidth() / 1.15))
        canvas.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=7, columnspacing=1.0, handletextpad=0.4)  # fmt: skip
    if figure.scale is not None:
        colours = ListedColormap([on_paper(f"n-{k}", palette) for k in range(SHADES)])
        bar = canvas.colorbar(ScalarMappable(Normalize(0, 1), colours), ax=axes, aspect=30, pad=0.02)
        bar.set_ticks([0, 1], labels=[f"{figure.scale_name} {figure.scale[0]}", figure.scale[1]])
        bar.outline.set_visible(False)
