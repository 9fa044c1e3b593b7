"""The figures of the runs and of the law fitted to them: loss against D, N and C, contours, residuals, bootstrap clouds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..budgets.frontier import exponent_a, optima
from ..fit import Fit
from ..laws import Chinchilla
from .chart import (
    Array,
    Axis,
    Band,
    Chart,
    Contours,
    Figure,
    Key,
    Label,
    Line,
    Mark,
    Points,
    Range,
    even_levels,
    padded,
    padded_linear,
)
from .numbers import count, flops
from .runs import Runs

LOSS = "test loss, nats per token"
CLOUD = 1000  # resamples drawn; more make the page heavy and show nothing else
_FRONTIER = "var(--accent)"

Curve = tuple[float, Array, Array]  # N, and the x and y of its line


def fit_figures(runs: Runs, fit: Fit | None) -> list[Figure]:
    """Every figure that the data allow: without a fit, those of the runs themselves."""
    if fit is None:
        return [loss_against_tokens(runs, None), loss_against_compute(runs, None)]
    return [
        loss_against_tokens(runs, fit),
        loss_contours(runs, fit),
        loss_against_parameters(runs, fit),
        loss_against_compute(runs, fit),
        *residuals(runs, fit),
        *clouds(runs, fit),
    ]


def loss_against_tokens(runs: Runs, fit: Fit | None) -> Figure:
    x = padded(runs.D)
    D = np.logspace(*x, 100)
    curves = [] if fit is None else [(N, D, fit.predict(N, D)) for N in runs.curve_sizes]
    law = "" if fit is None else "; each line is the fitted law at one N, and a good fit runs through its points"
    legend = runs.legend(bool(curves))
    return Figure(
        "loss-tokens",
        "fit",
        "Loss against training tokens",
        f"Each point is one run{_bars(runs)}, coloured by its parameters N{law}.",
        f"Test loss against training tokens for {len(runs.N)} runs, both axes logarithmic",
        Chart(
            Axis("training tokens D", "count", x),
            Axis(LOSS, "plain", _loss_range(runs, curves)),
            (*_lines(runs, curves), *runs.points(runs.D, runs.loss, bars=bool(runs.bars.any()))),
        ),
        legend.keys,
        sizes=legend.sizes,
        scale=legend.scale,
    )


def loss_against_parameters(runs: Runs, fit: Fit) -> Figure:
    """The same losses over N, with the law at a few D."""
    x = padded(runs.N)
    N, lengths = np.logspace(*x, 100), np.geomspace(runs.D.min(), runs.D.max(), 4)
    curves = [(D, N, fit.predict(N, D)) for D in lengths]
    lines = [
        Line(f"law at D {count(D)}", N, loss, "var(--muted)", 1, "curves", [f"law at D {count(D)}"] * 100)
        for D, N, loss in curves
    ]
    legend = runs.legend(False)
    return Figure(
        "loss-parameters",
        "fit",
        "Loss against parameters",
        f"The lines are the fitted law at D = {', '.join(map(count, lengths))}, from the top down; a run lies near the line of its own D.",
        f"Test loss against parameters for {len(runs.N)} runs, both axes logarithmic",
        Chart(
            Axis("parameters N", "count", x),
            Axis(LOSS, "plain", _loss_range(runs, curves)),
            (*lines, *runs.points(runs.N, runs.loss)),
        ),
        (Key("curves", "fitted law", "var(--muted)", "line"), *legend.keys),
        sizes=legend.sizes,
        scale=legend.scale,
        width="half",
    )


def loss_contours(runs: Runs, fit: Fit) -> Figure:
    """IsoLoss contours with the frontier, as in Hoffmann et al. 2022, figure 4, over (N, D)."""
    x, y = padded(runs.N, 0.12), padded(runs.D, 0.12)
    N, D = np.logspace(*x, 80), np.logspace(*y, 80)
    least, most = (float(np.log10(6.0) + x[end] + y[end]) for end in (0, 1))
    best = fit.optimal(np.logspace(least, most, 100))
    marks: list[Mark] = [
        Contours("loss of the law", N, D, fit.predict(N[None, :], D[:, None])),
        *_diagonals(x, y, least, most),
    ]
    if best.N_ci95 is not None and best.D_ci95 is not None:
        # On one diagonal C = 6ND the smallest N goes with the largest D.
        low, high = (best.N_ci95[:, 0], best.D_ci95[:, 1]), (best.N_ci95[:, 1], best.D_ci95[:, 0])
        marks.append(Band("frontier, 95 %", low, high, "frontier"))
    hover = [f"C {flops(C)}<br>N* {count(N)}, D* {count(D)}" for C, N, D in zip(best.C, best.N, best.D, strict=True)]
    marks.append(Line("frontier", best.N, best.D, _FRONTIER, 2.5, "frontier", hover))
    inside = (10 ** x[0] < best.N) & (10 ** x[1] > best.N) & (10 ** y[0] < best.D) & (10 ** y[1] > best.D)
    outside = "" if inside.any() else " It lies outside the range of these runs, so it is not in view."
    band = " (band: 95 % bootstrap interval)" if best.N_ci95 is not None else ""
    legend = runs.legend(False)
    return Figure(
        "loss-contours",
        "fit",
        "The loss surface and the compute-optimal frontier",
        "Along a contour the fitted loss is the same, along a dotted diagonal the compute C = 6ND is; the frontier marks the split "
        f"of each C into N and D with the lowest loss{band}.{outside}",
        "Contours of the fitted loss over parameters and training tokens, both logarithmic, with the runs as points",
        Chart(
            Axis("parameters N", "count", x),
            Axis("training tokens D", "count", y),
            (*marks, *runs.points(runs.N, runs.D)),
        ),
        (Key("frontier", "frontier N*, D*", _FRONTIER, "line"), *legend.keys),
        sizes=legend.sizes,
        scale=legend.scale,
    )


def loss_against_compute(runs: Runs, fit: Fit | None) -> Figure:
    x = padded(runs.C)
    D = np.logspace(*padded(runs.D), 100)
    curves = [] if fit is None else [(N, 6.0 * N * D, fit.predict(N, D)) for N in runs.curve_sizes]
    legend = runs.legend(bool(curves))
    keys, law, marks = legend.keys, "", list[Mark]()
    if fit is not None:
        best = fit.optimal(np.logspace(*x, 100))
        if best.loss_ci95 is not None:
            low, high = (best.C, best.loss_ci95[:, 0]), (best.C, best.loss_ci95[:, 1])
            marks.append(Band("frontier, 95 %", low, high, "frontier"))
        marks += [*_lines(runs, curves), Line("frontier", best.C, best.loss, _FRONTIER, 2.5, "frontier")]
        keys = (Key("frontier", "frontier L*(C)", _FRONTIER, "line"), *keys)
        law = "; the thin lines are the law at one N each, and the frontier L*(C) is the lowest loss that the law allows at C"
    return Figure(
        "loss-compute",
        "fit",
        "Loss against training compute",
        f"Each point is one run{_bars(runs)}, coloured by its parameters N{law}.",
        f"Test loss against training compute for {len(runs.N)} runs, both axes logarithmic",
        Chart(
            Axis("training compute C = 6ND, FLOPs", "flops", x),
            Axis(LOSS, "plain", _loss_range(runs, curves)),
            (*marks, *runs.points(runs.C, runs.loss, bars=bool(runs.bars.any()))),
        ),
        keys,
        sizes=legend.sizes,
        scale=legend.scale,
        width="whole" if fit is None else "half",
    )


def residuals(runs: Runs, fit: Fit) -> list[Figure]:
    """log L - log L-hat in percent, against D, N and C."""
    percent = 100.0 * fit.residuals
    most = max(1.2 * float(np.abs(percent).max()), 1e-3)
    against = (
        ("D", "training tokens D", runs.D, "count"),
        ("N", "parameters N", runs.N, "count"),
        ("C", "compute C, FLOPs", runs.C, "flops"),
    )
    legend = runs.legend(False)
    return [
        Figure(
            f"residuals-{id_}",
            "residuals",
            f"Against {id_}",
            f"Points above the zero line did worse than the law says; a trend along {id_} would show that its form does not fit.",
            f"Residuals of the fit in percent against {name} for {len(runs.N)} runs",
            Chart(
                Axis(name, kind, padded(values)),
                Axis("log(measured / fitted loss), %", "percent", (-most, most)),
                runs.points(values, percent, residuals=fit.residuals),
                levels=(0.0,),
            ),
            legend.keys,
            sizes=legend.sizes,
            scale=legend.scale,
            width="third",
        )
        for id_, name, values, kind in against
    ]


def clouds(runs: Runs, fit: Fit) -> list[Figure]:
    """The bootstrap refits of the Chinchilla law in the planes (alpha, beta) and (a, log N*)."""
    if not len(fit.samples) or fit.law != Chinchilla.name:
        return []
    each = fit.samples[np.linspace(0, len(fit.samples) - 1, min(CLOUD, len(fit.samples))).round().astype(int)]
    made = [
        _cloud(
            "cloud-exponents",
            "The exponents α and β",
            "Each dot is the law refitted to one resample of the runs, the diamond the law itself. In a long thin cloud α and β trade off; "
            "a round one knows each by itself.",
            (Axis("α", "number", padded_linear(_core(each[:, 3]))), Axis("β", "number", padded_linear(_core(each[:, 4])))),
            (each[:, 3], each[:, 4]),
            (fit.params["alpha"], fit.params["beta"]),
        )
    ]  # fmt: skip
    C = float(runs.C.max())
    a, N, best = exponent_a(each), optima(each, np.array([C]))[0][:, 0], float(fit.optimal(C).N[0])
    known = np.isfinite(a) & (N >= 1) & (N < 1e30)
    if known.sum() > len(each) / 2 and np.isfinite(best):
        made.append(
            _cloud(
                "cloud-frontier",
                "The exponent a and N*",
                f"N* is the best number of parameters for the largest budget of these runs, {flops(C)} FLOPs; a says how fast it grows from "
                "there.",
                (Axis("a", "number", padded_linear(_core(a[known]))), Axis(f"N* at {flops(C)} FLOPs", "count", padded(_core(N[known])))),
                (a[known], N[known]),
                (fit.frontier.a, best),
            )
        )  # fmt: skip
    return made


def _cloud(
    id_: str, title: str, caption: str, axes: tuple[Axis, Axis], samples: tuple[Array, Array], law: tuple[float, float]
) -> Figure:
    """The refits as dots, the law as a diamond."""
    x, y = axes
    texts = [_pair(axes, point) for point in zip(*samples, strict=True)]
    cloud = Points("refits", *samples, ["var(--n-6)"] * len(texts), texts, "refits", size=5, opacity=0.6)
    at = np.array([law[0]]), np.array([law[1]])
    centre = Points("law", *at, [_FRONTIER], [f"the law: {_pair(axes, law)}"], "law", symbol="diamond", size=12)
    keys = Key("refits", "refits", "var(--n-6)", "dot"), Key("law", "the law", _FRONTIER, "dot")
    label = f"{len(texts)} bootstrap refits, {y.title} against {x.title}"
    return Figure(id_, "uncertainty", title, caption, label, Chart(x, y, (cloud, centre)), keys, width="half")


def _pair(axes: tuple[Axis, Axis], point: tuple[float, float]) -> str:
    return ", ".join(
        f"{axis.title} {count(value) if axis.kind == 'count' else f'{value:.3f}'}"
        for axis, value in zip(axes, point, strict=True)
    )


def _core(values: Array) -> Array:
    """The values without the outermost per cent, which would squeeze the rest into a corner."""
    low, high = np.quantile(values, [0.005, 0.995])
    return np.asarray(values[(low <= values) & (values <= high)])


def _lines(runs: Runs, curves: Sequence[Curve]) -> list[Line]:
    return [Line(f"law at N {count(N)}", x, y, runs.colour(N), 1.5, runs.group(N)) for N, x, y in curves]


def _bars(runs: Runs) -> str:
    return " with the 95 % interval of its test loss" if runs.bars.any() else ""


def _loss_range(runs: Runs, curves: Sequence[Curve]) -> Range:
    """log10 range of the losses with their error bars, and of the curves where they lie among the runs."""
    low, high = runs.loss - runs.bars, runs.loss + runs.bars
    return padded(np.concatenate([low[low > 0], high, runs.loss, *(y for _, _, y in curves)]), 0.05)


def _diagonals(x: Range, y: Range, least: float, most: float) -> list[Mark]:
    """Lines of equal C = 6ND at round powers of ten, each named where it has room: above its lower end, or else below its middle."""
    sixth = float(np.log10(6.0))
    marks: list[Mark] = []
    for power in even_levels(least, most, 5):
        C = 10.0 ** float(power)
        left, right = max(x[0], power - sixth - y[1]), min(x[1], power - sixth - y[0])
        name, N = f"C = {flops(C)}", 10 ** np.array([left, right])
        marks.append(Line(name, N, C / (6.0 * N), "var(--axis)", 1, "diagonals", dotted=True))
        if right - left >= 0.2 * (x[1] - x[0]):
            ends_below = right < x[1] - 0.25 * (x[1] - x[0])
            share, position = (0.95, "top right") if ends_below else (0.7, "bottom left")
            at = float(10 ** (left + share * (right - left)))
            marks.append(Label(at, C / (6.0 * at), name, position))
    return marks
