"""A chart as a plotly figure."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from .chart import Array, Axis, Band, Chart, Contours, Label, Line, Points, even_levels

_SHADOW = "0 0 3px var(--card), 0 0 3px var(--card)"


def interactive(chart: Chart) -> go.Figure:
    """The chart for plotly.js, its colours still CSS variables: the page's script puts in those of a light or a dark page."""
    plot = _bare(chart)
    for level in chart.levels:
        plot.add_hline(y=level, line={"color": "var(--muted)", "width": 1.5}, layer="below")
    for mark in chart.marks:
        match mark:
            case Points():
                _add_points(plot, mark)
            case Line():
                _add_line(plot, mark)
            case Band():
                _add_band(plot, mark)
            case Contours():
                _add_contours(plot, mark)
            case Label():
                _add_label(plot, mark)
    return plot


def _bare(chart: Chart) -> go.Figure:
    """An empty plot. `meta` names how the script labels each axis: it chooses the ticks when it knows the width, and again on zooming."""
    plot = go.Figure()
    plot.update_layout(
        template={}, meta={"xaxis": chart.x.kind, "yaxis": chart.y.kind}, margin={"l": 52, "r": 18, "t": 28, "b": 52},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"size": 13, "color": "var(--muted)"},
        showlegend=False, hovermode="closest",
        hoverlabel={"align": "left", "bgcolor": "var(--card)", "bordercolor": "var(--axis)", "font": {"color": "var(--ink)", "size": 13}},
        xaxis={**_axis(chart.x), "title": {"text": chart.x.title, "standoff": 8, "font": {"size": 13}}},
        yaxis=_axis(chart.y),
    )  # fmt: skip
    # The title of the y axis lies above the plot, where it is read without turning the head and takes no width from a phone.
    plot.add_annotation(
        text=chart.y.title, xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom", xshift=-50, yshift=6,
        showarrow=False, align="left",
    )  # fmt: skip
    return plot


def _axis(axis: Axis) -> dict[str, object]:
    return {
        "type": "log" if axis.logarithmic else "linear", "range": list(axis.range), "nticks": 7,
        "showline": True, "linewidth": 1, "linecolor": "var(--axis)", "gridcolor": "var(--grid)", "zeroline": False, "automargin": False,
        "ticks": "outside", "ticklen": 4, "tickcolor": "var(--axis)", "tickangle": 0,
    }  # fmt: skip


def _add_points(plot: go.Figure, points: Points) -> None:
    error = None
    if points.above is not None and points.below is not None:
        error = {"array": _rounded(points.above), "arrayminus": _rounded(points.below), "symmetric": False, "thickness": 1, "width": 2, "color": "var(--axis)"}  # fmt: skip
    # Plotly would paint the first point alone by a list of one.
    colours = list(points.colours) * (len(points.x) if len(points.colours) == 1 else 1)
    plot.add_scatter(
        x=points.x.tolist(), y=points.y.tolist(), mode="markers", legendgroup=points.group, opacity=points.opacity,
        marker={"size": points.size, "symbol": points.symbol, "color": colours, "line": {"color": "var(--card)", "width": 1 if points.size > 5 else 0}},
        error_y=error, **_hover(points.hover),
    )  # fmt: skip


def _add_line(plot: go.Figure, line: Line) -> None:
    style = {"color": line.colour, "width": line.width, "simplify": False} | ({"dash": "dot"} if line.dotted else {})
    plot.add_scatter(
        x=line.x.tolist(), y=line.y.tolist(), mode="lines", legendgroup=line.group, line=style, **_hover(line.hover)
    )


def _add_band(plot: go.Figure, band: Band) -> None:
    x, y = outline(band)
    plot.add_scatter(
        x=x.tolist(), y=y.tolist(), mode="lines", fill="toself", fillcolor="var(--band)", line={"width": 0}, hoverinfo="skip",
        legendgroup=band.group,
    )  # fmt: skip


def outline(band: Band) -> tuple[Array, Array]:
    """The band's edge as one closed line, without what is undefined."""
    x, y = (np.concatenate([low, high[::-1]]) for low, high in zip(band.lower, band.upper, strict=True))
    defined = np.isfinite(x) & np.isfinite(y)
    return x[defined], y[defined]


def _add_contours(plot: go.Figure, contours: Contours) -> None:
    levels = contour_levels(contours)
    plot.add_contour(
        x=contours.x.tolist(), y=contours.y.tolist(), z=contours.z.tolist(), hoverinfo="skip", showscale=False,
        colorscale=[[0, "var(--low)"], [1, "var(--high)"]], line={"color": "var(--contour)", "width": 1},
        contours={"start": levels[0], "end": levels[-1], "size": levels[1] - levels[0], "showlabels": True,
                  "labelfont": {"size": 12, "color": "var(--muted)"}},
    )  # fmt: skip


def contour_levels(contours: Contours) -> Array:
    return even_levels(float(np.min(contours.z)), float(np.max(contours.z)), 14)


def _add_label(plot: go.Figure, label: Label) -> None:
    plot.add_scatter(
        x=[label.x], y=[label.y], mode="text", text=[label.text], textposition=label.position,
        textfont={"size": 12, "color": "var(--muted)", "shadow": _SHADOW}, hoverinfo="skip", cliponaxis=True,
    )  # fmt: skip


def _hover(texts: object) -> dict[str, object]:
    return {"hoverinfo": "skip"} if texts is None else {"text": texts, "hovertemplate": "%{text}<extra></extra>"}


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
