"""The figures of the other methods of Hoffmann et al. 2022 (IsoFLOP parabolas, envelope of training curves) and of the metric study."""

from __future__ import annotations

import numpy as np

from ..fit import Fit
from ..methods.envelope import Curves, Envelope, curves_of
from ..methods.isoflop import IsoFlop
from ..methods.metrics import Metric, MetricStudy
from ..tables.table import RunTable
from .chart import Array, Axis, Chart, Figure, Key, Line, Mark, Points, padded
from .fit_figures import LOSS
from .numbers import count, flops
from .runs import MOST_ROWS, Runs
from .theme import shade

MOST_CURVES, MOST_POINTS = 60, 50  # training curves drawn, and points of each
_ACCENT, _MUTED = "var(--accent)", "var(--muted)"


def isoflop_figures(runs: Runs, found: IsoFlop, fit: Fit) -> list[Figure]:
    """The parabolas with their vertices, and the line through these beside the law's own N*(C)."""
    parabolas = sorted(found.parabolas, key=lambda parabola: parabola.C)
    colours = [shade(k / max(len(parabolas) - 1, 1)) for k in range(len(parabolas))]
    marks: list[Mark] = []
    for k, (parabola, colour) in enumerate(zip(parabolas, colours, strict=True)):
        at, name = parabola.rows, f"C {flops(parabola.C)}"
        N = np.geomspace(runs.N[at].min(), runs.N[at].max(), 60)
        marks.append(Line(f"parabola {name}", N, parabola.curve(N), colour, 1.5, f"C{k}"))
        marks.append(
            Points(f"runs {name}", runs.N[at], runs.loss[at], [colour] * len(at), runs.hover(at), f"C{k}", size=6)
        )
    C, N, loss = (np.array([getattr(parabola, name) for parabola in parabolas]) for name in ("C", "N", "loss"))
    texts = [f"C {flops(c)}<br>N* {count(n)}, loss {level:.3f}" for c, n, level in zip(C, N, loss, strict=True)]
    vertices = _diamonds("vertices", N, loss, texts)
    used = np.concatenate([parabola.rows for parabola in parabolas])
    key = Key("vertices", "vertices", _ACCENT, "dot")
    line = np.logspace(*padded(C), 60)
    keyed = len(parabolas) <= MOST_ROWS
    return [
        Figure(
            "isoflop",
            "methods-compared",
            "IsoFLOP parabolas",
            "Runs of one compute budget share a colour; the vertex of the parabola through them is the best N of that budget.",
            f"Loss against parameters at {len(parabolas)} compute budgets, each with a parabola",
            Chart(
                Axis("parameters N", "count", padded(runs.N[used])),
                Axis(LOSS, "plain", padded(np.concatenate([runs.loss[used], loss]), 0.05)),
                (*marks, vertices),
            ),
            (key,),
            scale_name="C",
            sizes=tuple(Key(f"C{k}", flops(C[k]), colours[k], "dot") for k in range(len(C))) if keyed else (),
            scale=None if keyed else (flops(C[0]), flops(C[-1])),
            width="half",
        ),
        Figure(
            "isoflop-optimum",
            "methods-compared",
            "N* by both methods",
            "The line through the vertices of the parabolas, and the law's own frontier.",
            "Compute-optimal parameters against compute, from the parabolas and from the law",
            Chart(
                Axis("compute C, FLOPs", "flops", padded(C)),
                Axis("best number of parameters N*", "count", padded(np.concatenate([N, fit.optimal(C).N]), 0.15)),
                (
                    Line("law", line, fit.optimal(line).N, "var(--n-6)", 2, "law"),
                    Line("parabolas", line, np.exp(found.log_n1 + found.a * np.log(line)), _ACCENT, 2, "vertices"),
                    _diamonds("vertices", C, N, texts),
                ),
            ),
            (Key("law", "the law", "var(--n-6)", "line"), key),
            width="half",
        ),
    ]


def envelope_figures(table: RunTable, found: Envelope) -> list[Figure]:
    """The training curves over compute with their lower envelope, and the N that attains it."""
    curves = curves_of(table.frame, table.n_col, source=table.source)
    runs = Runs(table)
    marks, losses = _curves(runs, curves)
    texts = [
        f"C {flops(C)}<br>N {count(N)}, D {count(D)}<br>loss {loss:.3f}"
        for C, N, D, loss in zip(found.C, found.N, found.D, found.loss, strict=True)
    ]
    # The first steps of every curve are far above what matters.
    ceiling = float(np.quantile(losses, 0.6))
    y = padded(np.array([found.loss.min(), max(ceiling, 1.2 * found.loss.max())]))
    C = np.logspace(*padded(found.C), 80)
    legend = runs.legend(False)
    key = Key("envelope", "envelope", _ACCENT, "line")
    n1 = float(np.exp((np.log(found.N) - found.a * np.log(found.C)).mean()))
    return [
        Figure(
            "envelope",
            "methods-compared",
            "The envelope of the training curves",
            f"Each line is one run while it trains, and the envelope the lowest loss that any has reached by then: L = E + K/C^γ with "
            f"E = {found.E:.3g}, γ = {found.gamma:.3g}. Before the end of a schedule with a cooldown, curves lie above what a run that ends there "
            "reaches.",
            f"Training curves of {len(np.unique(curves.run))} runs over compute, with their lower envelope",
            Chart(
                Axis("compute so far C = 6ND, FLOPs", "flops", padded(6.0 * curves.N * curves.D)),
                Axis(LOSS, "plain", y),
                (
                    *marks,
                    Line("E + K/C^gamma", C, found.E + found.K * C**-found.gamma, _MUTED, 1.5, "law", dotted=True),
                    Line("envelope", found.C, found.loss, _ACCENT, 3, "envelope", texts),
                ),
            ),
            (key, Key("law", "E + K/C^γ", _MUTED, "line")),
            sizes=legend.sizes,
            scale=legend.scale,
            width="half",
        ),
        Figure(
            "envelope-optimum",
            "methods-compared",
            "N on the envelope",
            f"The N whose curve is lowest at each C, and the straight line through them: a = {found.a:.2f}.",
            "The number of parameters that attains the envelope, against compute",
            Chart(
                Axis("compute C, FLOPs", "flops", padded(found.C)),
                Axis("N that attains the envelope", "count", padded(found.N)),
                (
                    Line("N ∝ C^a", C, n1 * C**found.a, _MUTED, 1.5, "law", dotted=True),
                    Points("envelope", found.C, found.N, [_ACCENT] * len(found.C), texts, "envelope", size=6),
                ),
            ),
            width="half",
        ),
    ]


def metric_figures(study: MetricStudy) -> list[Figure]:
    """Shares of right tokens over compute, on a linear and on a logarithmic axis: the same numbers, sharp and smooth."""
    shares = [metric for metric in study.metrics if metric.tokens >= 1]
    colours = [shade(k / max(len(shares) - 1, 1)) for k in range(len(shares))]
    keys = tuple(Key(m.name, m.name, colour, "dot") for m, colour in zip(shares, colours, strict=True))
    x = Axis("training compute C = 6ND, FLOPs", "flops", padded(study.C))
    top = max(float(np.nanmax(metric.measured)) for metric in shares)
    seen = np.concatenate([metric.measured[metric.measured > 0] for metric in shares])
    least = max(float(seen.min()), 1e-6)
    axes = (
        ("metrics-linear", "Smooth and sharp metrics", "On this linear axis exact match of many tokens seems to appear suddenly.",
         Axis("share of right answers", "number", (-0.03 * top, 1.08 * top))),
        ("metrics-log", "The same on a logarithmic axis", "Here the same numbers climb steadily, along curves that follow from the loss alone.",
         Axis("share of right answers", "flops", padded(np.array([least, top])))),
    )  # fmt: skip
    return [
        Figure(
            id_,
            "metrics",
            title,
            f"{caption} Points: runs. Lines: predicted from the law's lowest loss at C.",
            f"Per-token accuracy and exact match against compute for {len(study.C)} runs",
            Chart(x, y, tuple(mark for m, colour in zip(shares, colours, strict=True) for mark in _metric(study, m, colour, y))),
            keys,
            width="half",
        )
        for id_, title, caption, y in axes
    ]  # fmt: skip


def _metric(study: MetricStudy, metric: Metric, colour: str, y: Axis) -> list[Mark]:
    seen = np.flatnonzero(np.isfinite(metric.measured) & ((metric.measured > 0) | (not y.logarithmic)))
    texts = [
        f"{metric.name}<br>measured {metric.measured[i]:.3g}, predicted {metric.predicted[i]:.3g}<br>C {flops(study.C[i])}"
        for i in seen
    ]
    return [
        Line(f"{metric.name}, predicted", study.budgets, metric.frontier, colour, 2, metric.name),
        Points(metric.name, study.C[seen], metric.measured[seen], [colour] * len(seen), texts, metric.name, size=7),
    ]


def _diamonds(name: str, x: Array, y: Array, texts: list[str]) -> Points:
    return Points(name, x, y, [_ACCENT] * len(x), texts, "vertices", symbol="diamond", size=10)


def _curves(runs: Runs, curves: Curves) -> tuple[list[Line], Array]:
    """The training curves over compute, thinned to what a figure can show, and the losses drawn."""
    labels = np.unique(curves.run)
    chosen = labels[np.linspace(0, len(labels) - 1, min(MOST_CURVES, len(labels))).round().astype(int)]
    lines = []
    for run in chosen:
        points = np.flatnonzero(curves.run == run)
        points = points[np.argsort(curves.D[points], kind="stable")]
        points = points[np.linspace(0, len(points) - 1, min(MOST_POINTS, len(points))).round().astype(int)]
        N, D = curves.N[points], curves.D[points]
        lines.append(Line(f"run {run + 1}", 6.0 * N * D, curves.loss[points], runs.colour(N[0]), 1, runs.group(N[0])))
    return lines, np.concatenate([line.y for line in lines])
