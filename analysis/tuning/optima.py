"""From a table of runs to the best learning rate of every (N, D, batch), each with a standard error.

Shape suffixes: R runs, X distinct learning rates of a curve.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from .local_parabola import Array, LocalParabola

ASSUMED_NOISE = 0.005  # nats, of one run, where no curve has a point more than its parabola needs
Status = Literal["interior", "low edge", "high edge", "flat"]


@dataclass(frozen=True)
class LadderTable:
    """Runs of a ladder, (R,) each; a run that diverged has a loss of inf: an upper bound of the optimum, not an error."""

    N: Array  # non-embedding parameters
    D: Array  # training tokens
    batch: Array  # tokens a step
    lr: Array  # peak learning rate
    loss: Array  # nats per token

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, float | None]]) -> Self:
        """Rows with N, D, batch, lr and loss; a loss of None, nan or inf is a run that diverged."""
        rows = list(rows)

        def column(name: str) -> Array:
            return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)

        loss = column("loss")
        return cls(column("N"), column("D"), column("batch"), column("lr"), np.where(np.isfinite(loss), loss, np.inf))


@dataclass(frozen=True)
class Curve:
    """Loss over learning rate at one (N, D, batch), repeats of other seeds averaged."""

    N: float
    D: float
    batch: float
    log2_lr_X: Array
    loss_X: Array  # inf where any seed diverged

    @property
    def best(self) -> int:
        return int(np.argmin(self.loss_X))


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of one curve. The loss grows by `curvature` · octaves² away from it.

    Only where `status` is "interior" do the learning rates tried bracket it; elsewhere `log2_lr` is that of the lowest run
    and `se` infinite.
    """

    N: float
    D: float
    batch: float
    status: Status
    log2_lr: float
    se: float  # octaves
    loss: float  # nats per token, at the optimum
    loss_se: float
    curvature: float  # nats per octave²; nan where no parabola fits
    n_diverged: int

    @property
    def lr(self) -> float:
        return float(2**self.log2_lr)


@dataclass(frozen=True)
class Optima:
    """All curves of a table and what was found on them."""

    curves: tuple[Curve, ...]
    found: tuple[Optimum, ...]  # one for each curve
    noise: float  # standard deviation of one run about its parabola, in nats, pooled over all curves
    noise_is_assumed: bool
    correlation: float  # of the residuals of two D at one learning rate: their runs share a trunk


def curves_of(table: LadderTable) -> tuple[Curve, ...]:
    """By N, D and batch, from small to large."""
    curves = []
    for n, d, batch in sorted(set(zip(table.N.tolist(), table.D.tolist(), table.batch.tolist(), strict=True))):
        mine = (n == table.N) & (d == table.D) & (table.batch == batch)
        lrs, which = np.unique(table.lr[mine], return_inverse=True)
        loss = np.array([table.loss[mine][which == i].mean() for i in range(len(lrs))])
        curves.append(Curve(n, d, batch, np.log2(lrs), loss))
    return tuple(curves)


def find_optima(table: LadderTable) -> Optima:
    """A local parabola through every curve; the noise is pooled over them."""
    curves = curves_of(table)
    parabolas = [LocalParabola.through(curve.log2_lr_X, curve.loss_X) for curve in curves]
    fitted = [parabola for parabola in parabolas if parabola is not None]
    freedom = sum(parabola.freedom for parabola in fitted)
    assumed = freedom < 0.5
    noise = ASSUMED_NOISE if assumed else float(np.sqrt(sum(p.squares for p in fitted) / freedom))
    found = tuple(_optimum(curve, parabola, noise) for curve, parabola in zip(curves, parabolas, strict=True))
    return Optima(curves, found, noise, assumed, 0.0 if assumed else _correlation(curves, parabolas))


def _optimum(curve: Curve, parabola: LocalParabola | None, noise: float) -> Optimum:
    """Interior where the lowest run has a worse one on either side and a convex parabola has its vertex among them."""
    best, tried = curve.best, curve.log2_lr_X
    status: Status = "interior"
    if not np.isfinite(curve.loss_X[best]) or best == 0:
        status = "low edge"
    elif best == len(tried) - 1 or parabola is None:
        status = "high edge"
    elif not parabola.is_convex(noise):
        status = "high edge" if np.isinf(curve.loss_X[best + 1]) else "flat"
    elif not tried[0] < parabola.vertex < tried[-1] or not _finite_near(curve, parabola.vertex):
        status = "high edge" if parabola.vertex > tried[best] else "low edge"
    inside = status == "interior"
    return Optimum(
        N=curve.N,
        D=curve.D,
        batch=curve.batch,
        status=status,
        log2_lr=parabola.vertex if inside and parabola else float(tried[best]),
        se=parabola.vertex_se(noise) if inside and parabola else np.inf,
        loss=parabola.lowest if inside and parabola else float(curve.loss_X[best]),
        loss_se=parabola.lowest_se(noise) if inside and parabola else noise,
        curvature=parabola.curvature if parabola else np.nan,
        n_diverged=int(np.isinf(curve.loss_X).sum()),
    )


def _finite_near(curve: Curve, vertex: float) -> bool:
    """Whether the vertex lies between learning rates that both trained: beyond the last one that did is unknown land."""
    trained = curve.log2_lr_X[np.isfinite(curve.loss_X)]
    return bool(trained[0] <= vertex <= trained[-1])


def _correlation(curves: tuple[Curve, ...], parabolas: list[LocalParabola | None]) -> float:
    """Of residuals at the same N, batch and learning rate but another D, pooled; within [0, 0.9]."""
    products = first_squares = second_squares = 0.0
    for (a, p), (b, q) in itertools.combinations(zip(curves, parabolas, strict=True), 2):
        if (a.N, a.batch) == (b.N, b.batch) and p is not None and q is not None:
            _, first, second = np.intersect1d(p.x_P, q.x_P, return_indices=True)
            products += float(p.residual_P[first] @ q.residual_P[second])
            first_squares += float(p.residual_P[first] @ p.residual_P[first])
            second_squares += float(q.residual_P[second] @ q.residual_P[second])
    norm = np.sqrt(first_squares * second_squares)
    return float(np.clip(products / norm, 0.0, 0.9)) if norm > 0 else 0.0
