"""The five figures of the report, each with its caption and legend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from ..fit import Fit
from ..table import RunTable
from .drawing import Range, Runs, add_band, add_curves, add_label, add_line, add_points, bare_plot, even_levels, padded
from .numbers import count, flops

_LOSS = "test loss, nats per token"


@dataclass(frozen=True)
class Key:
    """An entry of a figure's legend; it switches the traces of its legend group on and off."""

    group: str
    label: str
    colour: str
    mark: str  # "dot" or "line"


@dataclass(frozen=True)
class Figure:
    id: str
    title: str
    caption: str  # one sentence that says how to read it
    label: str  # for a reader who cannot see it
    plot: go.Figure
    keys: tuple[Key, ...]  # whatever is not an N
    sizes: tuple[Key, ...]  # one for each N, or none where a colour scale shows N
    scale: tuple[str, str] | None  # both ends of that colour scale
    half: bool = False  # shares its line with a neighbour on a wide window


def figures(table: RunTable, fit: Fit | None) -> list[Figure]:
    """Every figure that the data allow: without a fit, those of the runs themselves."""
    if len(table.N) == 0:
        return []
    runs = Runs(table)
    against_tokens, against_compute = loss_against_tokens(runs, fit), loss_against_compute(runs, fit)
    if fit is None:
        return [against_tokens, against_compute]
    return [against_tokens, loss_contours(runs, fit), against_compute, *residuals(runs, fit)]


def loss_against_tokens(runs: Runs, fit: Fit | None) -> Figure:
    x = padded(runs.D)
    D = np.logspace(*x, 100)
    curves = [] if fit is None else [(N, D, fit.predict(N, D)) for N in runs.curve_sizes]
    plot = bare_plot(x, _loss_range(runs, curves), "training tokens D", _LOSS, ("count", "plain"))
    add_curves(plot, runs, curves)
    add_points(plot, runs, runs.D, runs.loss, bars=bool(runs.bars.any()))
    law = "" if fit is None else "; each line is the fitted law at one N, and a good fit runs through its points"
    return Figure(
        "loss-tokens",
        "Loss against training tokens",
        f"Each point is one run{_bars(runs)}, coloured by its parameters N{law}.",
        f"Test loss against training tokens for {len(runs.N)} runs, both axes logarithmic",
        plot,
        _keys(runs, bool(curves)),
        _sizes(runs),
        _scale(runs),
    )


def loss_contours(runs: Runs, fit: Fit) -> Figure:
    """IsoLoss contours with the frontier, as in Hoffmann et al. 2022, figure 4, over (N, D)."""
    x, y = padded(runs.N, 0.12), padded(runs.D, 0.12)
    N, D = np.logspace(*x, 80), np.logspace(*y, 80)
    loss = fit.predict(N[None, :], D[:, None])
    plot = bare_plot(x, y, "parameters N", "training tokens D", ("count", "count"))
    _add_contours(plot, N.tolist(), D.tolist(), loss.tolist())
    least, most = (float(np.log10(6.0) + x[end] + y[end]) for end in (0, 1))
    _add_diagonals(plot, x, y, least, most)
    best = fit.optimal(np.logspace(least, most, 100))
    band = best.N_ci95 is not None and best.D_ci95 is not None
    if best.N_ci95 is not None and best.D_ci95 is not None:
        # On one diagonal C = 6ND the smallest N goes with the largest D.
        add_band(plot, (best.N_ci95[:, 0], best.D_ci95[:, 1]), (best.N_ci95[:, 1], best.D_ci95[:, 0]))
    hover = [f"C {flops(C)}<br>N* {count(N)}, D* {count(D)}" for C, N, D in zip(best.C, best.N, best.D, strict=True)]
    add_line(plot, best.N, best.D, "frontier", "var(--accent)", 2.5, hover)
    add_points(plot, runs, runs.N, runs.D)
    inside = (10 ** x[0] < best.N) & (10 ** x[1] > best.N) & (10 ** y[0] < best.D) & (10 ** y[1] > best.D)
    outside = "" if inside.any() else " It lies outside the range of these runs, so it is not in view."
    return Figure(
        "loss-contours",
        "The loss surface and the compute-optimal frontier",
        "Along a contour the fitted loss is the same, along a dotted diagonal the compute C = 6ND is; the frontier marks the split "
        f"of each C into N and D with the lowest loss{' (band: 95 % bootstrap interval)' if band else ''}.{outside}",
        "Contours of the fitted loss over parameters and training tokens, both logarithmic, with the runs as points",
        plot,
        (Key("frontier", "frontier N*, D*", "var(--accent)", "line"), *_keys(runs, False)),
        _sizes(runs),
        _scale(runs),
    )


def loss_against_compute(runs: Runs, fit: Fit | None) -> Figure:
    x = padded(runs.C)
    D = np.logspace(*padded(runs.D), 100)
    curves = [] if fit is None else [(N, 6.0 * N * D, fit.predict(N, D)) for N in runs.curve_sizes]
    plot = bare_plot(x, _loss_range(runs, curves), "training compute C = 6ND, FLOPs", _LOSS, ("flops", "plain"))
    keys, law = _keys(runs, bool(curves)), ""
    if fit is not None:
        best = fit.optimal(np.logspace(*x, 100))
        if best.loss_ci95 is not None:
            add_band(plot, (best.C, best.loss_ci95[:, 0]), (best.C, best.loss_ci95[:, 1]))
        add_curves(plot, runs, curves)
        add_line(plot, best.C, best.loss, "frontier", "var(--accent)", 2.5)
        keys = (Key("frontier", "frontier L*(C)", "var(--accent)", "line"), *keys)
        law = "; the thin lines are the law at one N each, and the frontier L*(C) is the lowest loss that the law allows at C"
    add_points(plot, runs, runs.C, runs.loss, bars=bool(runs.bars.any()))
    return Figure(
        "loss-compute",
        "Loss against training compute",
        f"Each point is one run{_bars(runs)}, coloured by its parameters N{law}.",
        f"Test loss against training compute for {len(runs.N)} runs, both axes logarithmic",
        plot,
        keys,
        _sizes(runs),
        _scale(runs),
    )


def residuals(runs: Runs, fit: Fit) -> list[Figure]:
    """log L - log L-hat in percent, against D and against N."""
    percent = 100.0 * fit.residuals
    most = max(1.2 * float(np.abs(percent).max()), 1e-3)
    drawn = []
    for id_, name, values in (("D", "training tokens D", runs.D), ("N", "parameters N", runs.N)):
        plot = bare_plot(padded(values), (-most, most), name, "log(measured / fitted loss), %", ("count", "percent"))
        plot.add_hline(y=0, line={"color": "var(--muted)", "width": 1.5})
        add_points(plot, runs, values, percent, fit.residuals)
        drawn.append(
            Figure(
                f"residuals-{id_}",
                f"Residuals against {name}",
                f"Points above the zero line are runs that did worse than the law says; a trend along {id_} would show that its form does "
                "not fit.",
                f"Residuals of the fit in percent against {name} for {len(runs.N)} runs",
                plot,
                _keys(runs, False),
                _sizes(runs),
                _scale(runs),
                half=True,
            )
        )
    return drawn


def _keys(runs: Runs, curves: bool) -> tuple[Key, ...]:
    if runs.by_row:
        return ()
    law = (Key("curves", "fitted law", "var(--muted)", "line"),) if curves else ()
    return (Key("runs", "runs", "var(--muted)", "dot"), *law)


def _sizes(runs: Runs) -> tuple[Key, ...]:
    if not runs.by_row:
        return ()
    return tuple(Key(runs.group(N), runs.labels[N], runs.colour(N), "dot") for N in runs.sizes)


def _scale(runs: Runs) -> tuple[str, str] | None:
    return None if runs.by_row else (count(runs.sizes[0]), count(runs.sizes[-1]))


def _bars(runs: Runs) -> str:
    return " with the 95 % interval of its test loss" if runs.bars.any() else ""


def _loss_range(runs: Runs, curves: list[tuple[float, np.ndarray, np.ndarray]]) -> Range:
    """log10 range of the losses with their error bars, and of the curves where they lie among the runs."""
    low, high = runs.loss - runs.bars, runs.loss + runs.bars
    return padded(np.concatenate([low[low > 0], high, runs.loss, *(y for _, _, y in curves)]), 0.05)


def _add_contours(plot: go.Figure, x: list[float], y: list[float], z: list[list[float]]) -> None:
    levels = even_levels(float(np.min(z)), float(np.max(z)), 14)
    plot.add_contour(
        x=x, y=y, z=z, hoverinfo="skip", showscale=False, colorscale=[[0, "var(--low)"], [1, "var(--high)"]],
        line={"color": "var(--contour)", "width": 1},
        contours={"start": levels[0], "end": levels[-1], "size": levels[1] - levels[0], "showlabels": True,
                  "labelfont": {"size": 12, "color": "var(--muted)"}},
    )  # fmt: skip


def _add_diagonals(plot: go.Figure, x: Range, y: Range, least: float, most: float) -> None:
    """Lines of equal C = 6ND at round powers of ten, each named where it has room: above its lower end, or else below its middle."""
    sixth = float(np.log10(6.0))
    for power in even_levels(least, most, 5):
        C = 10.0 ** float(power)
        left, right = max(x[0], power - sixth - y[1]), min(x[1], power - sixth - y[0])
        N = 10 ** np.array([left, right])
        add_line(plot, N, C / (6.0 * N), "diagonals", "var(--axis)", 1)
        plot.data[-1].line.dash = "dot"
        if right - left < 0.2 * (x[1] - x[0]):
            continue
        ends_below = right < x[1] - 0.25 * (x[1] - x[0])
        share, position = (0.95, "top right") if ends_below else (0.7, "bottom left")
        at = 10 ** (left + share * (right - left))
        add_label(plot, at, C / (6.0 * at), f"C = {flops(C).replace('.0e', 'e')}", position)
