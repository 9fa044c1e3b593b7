"""What a ladder says: the best learning rate (and batch) of every rung, and the rule through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .local_parabola import Array, LocalParabola
from .optima import LadderTable, Optima, Optimum, find_optima
from .rule import PowerLaw, fit_power_law

FEWEST_RUNGS = 4  # below, a rule is fitted but said to be of few rungs


@dataclass(frozen=True)
class BatchOptimum:
    """The best batch at one (N, D), each batch at its own best learning rate."""

    N: float
    D: float
    log2_batch: float
    se: float  # octaves
    lr_optimum: Optimum  # at that batch, between those of the batches beside it


@dataclass(frozen=True)
class Ladder:
    """A ladder's optima and the rule through them."""

    optima: Optima
    cells: tuple[Optimum, ...]  # one for each (N, D): at its best batch where batches were compared
    batches: tuple[BatchOptimum, ...]
    lr: PowerLaw | None  # None: no rung is bracketed
    batch: PowerLaw | None  # None: batches were not compared, or no best one is bracketed
    notes: tuple[str, ...]

    def excess(self, N: float, D: float, lr: float, batch: float | None = None) -> float:
        """Expected excess loss in nats of training (N, D) at `lr`: parabola's curvature times the square of what it is off.

        The rule's own error is part of what it is off. The curvature is that of the nearest bracketed rung, in log N and log D.
        """
        if self.lr is None:
            return math.nan
        off = math.log2(lr / self.lr.value(N, D, batch))
        return self.curvature(N, D) * (off**2 + self.lr.se_octaves(N, D, batch) ** 2)

    def curvature(self, N: float, D: float) -> float:
        """Nats per octave² of the bracketed rung nearest in log N and log D."""
        inside = [cell for cell in self.cells if cell.status == "interior"]
        return min(inside, key=lambda cell: math.log(cell.N / N) ** 2 + math.log(cell.D / D) ** 2).curvature


def climb(table: LadderTable) -> Ladder:
    """Fits the ladder: optima, then the rule. Rungs that are not bracketed are shown and not used.

    Where batches were compared, the learning rate's rule goes through the optima of all of them and has an exponent of B: the
    best batches of two rungs may differ by more than their learning rates do.
    """
    optima = find_optima(table)
    batches, cells, notes, open_batches = [], [], [], []
    for n, d in sorted({(each.N, each.D) for each in optima.found}):
        mine = [each for each in optima.found if (n, d) == (each.N, each.D)]
        if len(mine) == 1:
            cells.append(mine[0])
        elif (best := best_batch(mine)) is not None:
            batches.append(best)
            cells.append(best.lr_optimum)
        else:
            cells.append(min(mine, key=lambda each: each.loss))
            open_batches.append(f"N {n:,.0f} D {d:,.0f}")
    if open_batches:
        notes.append(f"the best batch is not bracketed at {', '.join(open_batches)}")
    inside = [each for each in optima.found if each.status == "interior"]
    notes += [
        f"N {cell.N:,.0f} D {cell.D:,.0f}: its best learning rate is not bracketed ({cell.status}); left out of the rule"
        for cell in cells
        if cell.status != "interior"
    ]
    if not inside:
        return Ladder(
            optima, tuple(cells), tuple(batches), None, None, (*notes, "no rung is bracketed: there is no rule")
        )
    N, D, B, log2_lr, se = (_column(inside, name) for name in ("N", "D", "batch", "log2_lr", "se"))
    compared = len(set(B.tolist())) > 1
    lr = fit_power_law(N, D, log2_lr, se, optima.correlation, ("N", "D", "B"), B if compared else None)
    rungs = len({cell.N for cell in inside})
    if rungs < FEWEST_RUNGS:
        notes.append(f"{rungs} bracketed rungs: a rule should have {FEWEST_RUNGS}")
    if "N" not in lr.fitted:
        notes.append("too few rungs for an exponent of N: the rule's learning rate is the same at every N")
    if "D" not in lr.fitted:
        notes.append("too few token counts for an exponent of D: the rule's learning rate is the same at every D")
    if optima.noise_is_assumed:
        notes.append(f"no curve has a learning rate to spare: a noise of {optima.noise:g} nats is assumed")
    return Ladder(optima, tuple(cells), tuple(batches), lr, _batch_rule(batches), tuple(notes))


def best_batch(optima: Sequence[Optimum]) -> BatchOptimum | None:
    """A parabola through the lowest losses of three or more batches over log2 batch; None where it is not bracketed."""
    inside = sorted((each for each in optima if each.status == "interior"), key=lambda each: each.batch)
    x = np.log2([each.batch for each in inside])
    parabola = LocalParabola.through(x, np.array([each.loss for each in inside])) if len(inside) else None
    noise = max((each.loss_se for each in inside), default=math.nan)
    if parabola is None or not parabola.is_convex(noise) or not x[0] < parabola.vertex < x[-1]:
        return None
    at_vertex = replace(
        inside[0],
        batch=2**parabola.vertex,
        log2_lr=float(np.interp(parabola.vertex, x, _column(inside, "log2_lr"))),
        se=float(np.interp(parabola.vertex, x, _column(inside, "se"))),
        curvature=float(np.interp(parabola.vertex, x, _column(inside, "curvature"))),
        loss=parabola.lowest,
    )
    return BatchOptimum(inside[0].N, inside[0].D, parabola.vertex, parabola.vertex_se(noise), at_vertex)


def _batch_rule(batches: Sequence[BatchOptimum]) -> PowerLaw | None:
    if not batches:
        return None
    N, D, log2_batch, se = (_column(batches, name) for name in ("N", "D", "log2_batch", "se"))
    return fit_power_law(N, D, log2_batch, se, exponents=("D",))


def _column(rows: Sequence[object], name: str) -> Array:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)
