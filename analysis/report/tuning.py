"""The page of a tuning ladder: loss over learning rate of every rung, and the rule through the optima."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.offline
from markupsafe import Markup

from ..tuning.ladder import Ladder
from ..tuning.optima import Curve, Optimum
from ..tuning.rule import PowerLaw
from .chart import Array, Axis, Band, Chart, Figure, Key, Line, Mark, Points, padded
from .numbers import count
from .page import json_of, template, write_whole
from .study_tables import CellText, Table
from .theme import SHADES, palettes, shade

LOSS = "validation loss, nats per token"


def write_tuning_page(path: Path, title: str, ladder: Ladder, lines: Sequence[str]) -> Path:
    """Writes the page in one step: one file that works offline.

    Args:
        path: the page.
        title: its heading.
        ladder: what it shows; must have a rule.
        lines: the rule in words.
    """
    figures = tuning_figures(ladder)
    rungs = len({cell.N for cell in ladder.cells})
    n_runs = sum(len(curve.loss_X) for curve in ladder.optima.curves)
    html = template("tuning.html.j2").render(
        title=title,
        lead=f"{n_runs} runs on {rungs} rungs; losses are of the validation side, never of the test set",
        lines=lines,
        notes=ladder.notes,
        figures=figures,
        specs={figure.id: json_of(figure) for figure in figures},
        table=rungs_table(ladder),
        palettes=palettes(),
        shades=range(SHADES),
        plotly_js=Markup(plotly.offline.get_plotlyjs()),
    )
    return write_whole(path, html)


def tuning_figures(ladder: Ladder) -> list[Figure]:
    """The rule's learning rate (and batch), then one figure a rung."""
    made = []
    if ladder.lr is not None:
        inside = [cell for cell in ladder.cells if cell.status == "interior"]
        N, D, B, log2_lr, se = (
            np.array([getattr(cell, name) for cell in inside]) for name in ("N", "D", "batch", "log2_lr", "se")
        )
        title, exponent = "peak learning rate", ladder.lr.exponent("B")
        if exponent:  # every optimum is shown where it would be at one batch
            title += f" at a batch of {count(ladder.lr.centre_B)}"
            log2_lr = log2_lr - exponent * np.log2(B / ladder.lr.centre_B)
        made.append(_rule_figure("lr", title, "plain", ladder.lr, N, D, log2_lr, se))
    if ladder.batch is not None:
        values = [np.array([getattr(b, name) for b in ladder.batches]) for name in ("N", "D", "log2_batch", "se")]
        made.append(_rule_figure("batch", "batch, tokens", "count", ladder.batch, *values))
    settings = dict.fromkeys((curve.N, curve.batch) for curve in ladder.optima.curves)
    return [*made, *(_rung_figure(ladder, n, batch) for n, batch in settings)]


def _rule_figure(name: str, title: str, kind: str, law: PowerLaw, N: Array, D: Array, log2: Array, se: Array) -> Figure:
    """A power law against N, one line for each D, with its 95 % band and the optima under it."""
    line_N = np.geomspace(N.min() / 2, N.max() * 4, 60)
    tokens = np.unique(D)
    marks: list[Mark] = []
    edges = [log2 - se, log2 + se]
    for k, d in enumerate(tokens.tolist()):
        colour, group = shade(k / max(len(tokens) - 1, 1)), f"D{k}"
        middle, error = (np.array([f(n, d) for n in line_N.tolist()]) for f in (law.value, law.se_octaves))
        low, high = middle * 2 ** (-1.96 * error), middle * 2 ** (1.96 * error)
        marks += [
            Band(f"band {group}", (line_N, low), (line_N, high), group),
            Line(group, line_N, middle, colour, 1.5, group),
        ]
        mine = d == D
        y, spread = 2 ** log2[mine], 2 ** se[mine]
        hover = [f"N {count(n)}, D {count(d)}<br>{v:.3g}" for n, v in zip(N[mine].tolist(), y.tolist(), strict=True)]
        marks.append(
            Points(f"optima {group}", N[mine], y, [colour], hover, group, below=y - y / spread, above=y * spread - y)
        )
        edges += [np.log2(low), np.log2(high)]
    keys = tuple(
        Key(f"D{k}", f"D {count(d)}", shade(k / max(len(tokens) - 1, 1)), "line") for k, d in enumerate(tokens.tolist())
    )
    return Figure(
        f"rule-{name}",
        "rule",
        f"Best {title} against N",
        "Each point is the optimum of one rung with its standard error; lines are the rule at each D, with its 95 % band.",
        f"Best {title} against parameters without embeddings, {len(N)} optima and the fitted rule",
        Chart(
            Axis("parameters without embeddings N", "count", padded(line_N, 0.0)),
            Axis(title, kind, padded(2.0 ** np.concatenate(edges))),
            tuple(marks),
        ),
        keys,
        width="half" if name == "batch" else "whole",
    )


def _rung_figure(ladder: Ladder, n: float, batch: float) -> Figure:
    """Loss over learning rate at each D, the parabola near its lowest point, and its vertex; a diverged run is a cross."""
    pairs = [
        (curve, optimum)
        for curve, optimum in zip(ladder.optima.curves, ladder.optima.found, strict=True)
        if (curve.N, curve.batch) == (n, batch)
    ]
    marks: list[Mark] = []
    trained = np.concatenate([curve.loss_X[np.isfinite(curve.loss_X)] for curve, _ in pairs])
    top = float(trained.max(initial=1.0)) if len(trained) else 1.0
    for k, (curve, optimum) in enumerate(pairs):
        marks += _curve_marks(curve, optimum, shade(k / max(len(pairs) - 1, 1)), f"D{k}", top)
    lrs = 2 ** np.concatenate([curve.log2_lr_X for curve, _ in pairs])
    keys = tuple(
        Key(f"D{k}", f"D {count(curve.D)}", shade(k / max(len(pairs) - 1, 1)), "dot")
        for k, (curve, _) in enumerate(pairs)
    )
    states = "; ".join(f"D {count(o.D)}: {_state(o)}" for _, o in pairs)
    return Figure(
        f"rung-{n:.0f}-{batch:.0f}",
        "rungs",
        f"N {count(n)}, batch {count(batch)}",
        f"{states}. Diamonds: vertices; crosses at the top: diverged.",
        f"Loss against learning rate at N {count(n)}. {states}",
        Chart(
            Axis("peak learning rate", "plain", padded(lrs)),
            Axis(LOSS, "plain", padded(np.append(trained, top), 0.08)),
            tuple(marks),
        ),
        keys,
        width="half",
    )


def _curve_marks(curve: Curve, optimum: Optimum, colour: str, group: str, top: float) -> list[Mark]:
    lr, finite = 2**curve.log2_lr_X, np.isfinite(curve.loss_X)
    hover = [
        f"lr {x:.3g}<br>loss {y:.4f}" for x, y in zip(lr[finite].tolist(), curve.loss_X[finite].tolist(), strict=True)
    ]
    marks: list[Mark] = [Points(f"runs {group}", lr[finite], curve.loss_X[finite], [colour], hover, group)]
    if not finite.all():
        crosses = [f"lr {x:.3g}<br>diverged" for x in lr[~finite].tolist()]
        marks.append(
            Points(f"diverged {group}", lr[~finite], np.full(len(crosses), top), [colour], crosses, group, symbol="x")
        )
    if optimum.status == "interior":
        x = np.linspace(optimum.log2_lr - 1.5, optimum.log2_lr + 1.5, 60)
        marks.append(Line(f"parabola {group}", 2**x, optimum.loss + optimum.curvature * (x - optimum.log2_lr) ** 2, colour, 1.5, group))  # fmt: skip
        vertex = np.array([optimum.lr]), np.array([optimum.loss])
        marks.append(Points(f"vertex {group}", *vertex, ["var(--accent)"], [_state(optimum)], group, symbol="diamond", size=10))  # fmt: skip
    return marks


def _state(optimum: Optimum) -> str:
    if optimum.status != "interior":
        return f"not bracketed ({optimum.status})"
    return f"best {optimum.lr:.2e} ± {optimum.se:.2f} octaves"


def rungs_table(ladder: Ladder) -> Table:
    """One row for each (N, D)."""
    rows: list[tuple[CellText, ...]] = []
    for cell in ladder.cells:
        inside = cell.status == "interior"
        rule = ladder.lr.value(cell.N, cell.D, cell.batch) if ladder.lr else float("nan")
        off = float(np.log2(rule)) - cell.log2_lr
        texts = (
            count(cell.N),
            count(cell.D),
            count(cell.batch),
            f"{cell.lr:.2e}" if inside else cell.status,
            f"{cell.se:.2f}" if inside else "",
            f"{cell.loss:.4f}",
            f"{cell.curvature:.3f}" if inside else "",
            f"{rule:.2e}",
            f"{cell.curvature * off**2:.4f}" if inside else "",
        )
        rows.append(tuple((text, "") for text in texts))
    return Table(
        "rungs-table",
        "rule",
        "Optima",
        ("N", "D", "batch", "best lr", "± octaves", "loss", "nats/octave²", "rule's lr", "costs, nats"),
        tuple(rows),
        f"Errors from the noise of one run, {ladder.optima.noise:.4f} nats, pooled over all curves. The last column is what the"
        " rule's learning rate costs over the rung's own optimum, by its parabola.",
    )
