"""Which law predicts best: each scored by forward chaining over compute, beside a stack of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..laws import Array, FitError, Law, Rows
from ..solver.newton import Mask
from .chaining import fit_weighted, folds
from .forecast import chain_of, forecast_of

STACK = "stack"


@dataclass(frozen=True)
class LawScore:
    """How the intervals of one law, or of the stack, held on runs beyond those it was fitted to: means over the folds, in log loss.

    `score` is the interval score; `behind` its difference to the best law, with a paired standard error over the folds (None for the
    best, and with a single fold). `rms` is the in-sample residual of the whole table, None for the stack.
    """

    law: str
    score: float
    coverage: float
    error: float  # the median |log L - forecast|
    rms: float | None
    behind: float
    behind_se: float | None


@dataclass(frozen=True)
class Comparison:
    """`scores` are sorted, the best first; `trained` holds the largest C of the runs of each fold, in FLOPs."""

    scores: tuple[LawScore, ...]
    trained: tuple[float, ...]
    level: float

    @property
    def best(self) -> LawScore:
        return self.scores[0]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        return {"laws": [asdict(score) for score in self.scores], "trained": list(self.trained), "level": self.level}


def compare(
    rows: Rows, laws: Sequence[Law], *, se: Array | None = None, delta: float = 1e-3, level: float = 0.95, seed: int = 0
) -> Comparison:
    """Every law alone and, if there are several, all stacked: fitted on the runs C <= C_max / 2, / 3, ... and scored on the rest.

    The forecast of a fold sees nothing of the runs that it is scored on. Raises FitError where no fold is possible.
    """
    trained = folds(rows)[1:]
    if not len(trained):
        raise FitError(
            "laws are compared by predicting runs of more compute: fewer than 8 runs, or less than a factor of 2 in N, D and C, are left"
        )
    contenders: list[Law | None] = [*laws, None] if len(laws) > 1 else [*laws]  # None: all of them, stacked
    folded = np.stack([_fold(rows, seen, laws, contenders, se, delta, level, seed) for seen in trained], axis=1)
    best = folded[:, :, 0].mean(axis=1).argmin()
    scores = []
    for law, fold in zip(contenders, folded, strict=True):
        score, coverage, error = fold.mean(axis=0)
        difference = fold[:, 0] - folded[best, :, 0]
        paired = len(fold) > 1 and fold is not folded[best] and bool(difference.any())
        scores.append(
            LawScore(
                law=law.name if law else STACK,
                score=float(score),
                coverage=float(coverage),
                error=float(error),
                rms=_rms(rows, law, delta) if law else None,
                behind=float(difference.mean()),
                behind_se=float(difference.std(ddof=1) / np.sqrt(len(fold))) if paired else None,
            )
        )
    largest = tuple(float(np.exp(rows.c[seen].max() + rows.c_mean)) for seen in trained)
    return Comparison(tuple(sorted(scores, key=lambda score: score.score)), largest, level)


def interval_score(y: Array, low: Array, high: Array, level: float) -> Array:
    """The width of an interval and 2/(1 - level) times the miss (Gneiting & Raftery 2007, equation 43); smaller is better; (k,)."""
    missed = np.maximum(np.maximum(low - y, y - high), 0.0)
    return np.asarray(high - low + 2.0 / (1.0 - level) * missed)


def _fold(
    rows: Rows,
    seen: Mask,
    laws: Sequence[Law],
    contenders: Sequence[Law | None],
    se: Array | None,
    delta: float,
    level: float,
    seed: int,
) -> Array:
    """Per contender the mean interval score, coverage and median |error| of log L on the runs not seen: (contenders, 3)."""
    known = None if se is None else se[seen]
    chained = chain_of(rows.take(np.flatnonzero(seen)), laws, se=known, delta=delta, seed=seed)
    N, D, y = np.exp(rows.x[~seen] + rows.x_mean), np.exp(rows.z[~seen] + rows.z_mean), rows.y[~seen]
    found = []
    for law in contenders:
        fitted = forecast_of(chained.only(law) if law else chained, se=known, delta=delta, seed=seed)
        centre, low, high = (np.log(end) for end in fitted.interval(N, D, level))
        inside = (low <= y) & (y <= high)
        found.append([interval_score(y, low, high, level).mean(), inside.mean(), np.median(np.abs(y - centre))])
    return np.array(found)


def _rms(rows: Rows, law: Law, delta: float) -> float:
    theta = fit_weighted(law, rows, rows.weight[None], delta)
    return float(np.sqrt(np.mean((rows.y - law.shares(theta, rows).f[0]) ** 2)))
