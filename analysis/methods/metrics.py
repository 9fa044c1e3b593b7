"""Smooth against sharp metrics of the same runs: is a capability that 'emerges' with compute foretold by the loss?

Schaeffer, Miranda & Koyejo 2023 (arXiv 2304.15004, section 2): where the probability p of one right token falls smoothly with the loss, the
share of k right tokens in a row is about p^k, flat and then steep. Here p is the per-token accuracy as a function of the loss that the
fitted law gives each run, and exact match of k tokens is predicted from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize_scalar

from ..laws import Array, FitError
from ..tables.table import TableError

FEWEST_RUNS = 4
GRID = 60
EXPLAINED = 0.9  # the R^2 from which a sharp metric counts as foretold

Predict = Callable[[Array, Array], Array]  # N (n,), D (n,) -> loss (n,)
LossAt = Callable[[Array], Array]  # C (k,) -> the law's lowest loss at each (k,)


@dataclass(frozen=True)
class Measured:
    """What the ledger measured: accuracy (n,) and exact match (n,) by number of tokens k; nan where a run has none."""

    accuracy: Array
    exact_match: dict[int, Array]


@dataclass(frozen=True)
class Metric:
    """One metric of the runs against the prediction from the law, at the runs (n,) and along the compute-optimal frontier (k,)."""

    name: str  # loss, accuracy, or exact match of k tokens
    tokens: int  # k; 1 for accuracy, 0 for the loss
    measured: Array  # (n,)
    predicted: Array  # (n,) from the law's loss at the runs' N and D
    frontier: Array  # (k,) from the law's lowest loss at each budget
    r2: float  # of measured by predicted, over the runs that are scored
    max_error: float  # the largest |measured - predicted| of those
    effective_tokens: float | None  # e in p^e; k if the tokens of a match were independent
    r2_independent: float | None  # with p^k instead, which has no parameter of its own
    last_decade: float  # the share of the frontier's rise that falls in its last decade of compute: near 1 is 'sharp'


@dataclass(frozen=True)
class MetricStudy:
    """Metrics in the order loss, accuracy, exact match by k; C (n,) of the runs and budgets (k,) of the frontier, in FLOPs."""

    C: Array
    budgets: Array
    scored: npt.NDArray[np.bool_]  # (n,)
    metrics: tuple[Metric, ...]
    summary: str  # one plain sentence for the report


def measured_of(frame: pd.DataFrame, source: str = "table") -> Measured:
    """The columns `accuracy` and `exact_match` (JSON or a mapping {k: share}) of a ledger's rows.

    Raises TableError where a column is missing, or holds anything but shares between 0 and 1.
    """
    for column in ("accuracy", "exact_match"):
        if column not in frame.columns:
            raise TableError(
                f"{source}: there is no column {column!r}; the metric study needs accuracy and exact_match"
            )
    accuracy = pd.to_numeric(frame["accuracy"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    _check_shares(accuracy, f"{source}: column accuracy")
    cells = [
        _shares(cell, f"{source}: row {row + 1}, column exact_match") for row, cell in enumerate(frame["exact_match"])
    ]
    lengths = sorted({k for cell in cells for k in cell})
    return Measured(accuracy, {k: np.array([cell.get(k, np.nan) for cell in cells]) for k in lengths})


def metric_study(
    N: Array,
    D: Array,
    loss: Array,
    measured: Measured,
    predict: Predict,
    loss_at: LossAt,
    fitted: npt.NDArray[np.bool_] | None = None,
) -> MetricStudy:
    """Each metric predicted from the law: `predict` its loss at (N, D), `loss_at` its lowest loss at C.

    log accuracy = log p0 - c L by least squares, then for each k the exponent e of p^e. Both are fitted to the runs `fitted` (n,) and scored on the
    others; with None fitted to all and scored on all. Raises FitError for fewer than four runs with an accuracy to fit, or none to score.
    """
    present = np.isfinite(measured.accuracy) & (measured.accuracy > 0)
    train = present if fitted is None else present & fitted
    scored = present if fitted is None else present & ~fitted
    if train.sum() < FEWEST_RUNS or not scored.any():
        raise FitError(
            f"the metric study needs at least {FEWEST_RUNS} runs with an accuracy above 0 to fit and one to score;"
            f" there are {int(train.sum())} and {int(scored.sum())}"
        )
    C = 6.0 * N * D
    budgets = np.geomspace(C.min(), C.max(), GRID)
    at_runs, at_budgets = predict(N, D), loss_at(budgets)
    slope, level = np.polyfit(at_runs[train], np.log(measured.accuracy[train]), 1)

    def p(losses: Array) -> Array:
        return np.asarray(np.exp(np.minimum(level + slope * losses, 0.0)))

    def metric(
        name: str, tokens: int, values: Array, predicted: Array, frontier: Array,
        effective: float | None = None, independent: Array | None = None,
    ) -> Metric:  # fmt: skip
        among = scored & np.isfinite(values)
        return Metric(
            name=name,
            tokens=tokens,
            measured=values,
            predicted=predicted,
            frontier=frontier,
            r2=_r2(values[among], predicted[among]),
            max_error=float(np.abs(values - predicted)[among].max(initial=0.0)),
            effective_tokens=effective,
            r2_independent=None if independent is None else _r2(values[among], independent[among]),
            last_decade=_last_decade(budgets, frontier),
        )

    token, along = p(at_runs), p(at_budgets)
    metrics = [metric("loss", 0, loss, at_runs, at_budgets), metric("accuracy", 1, measured.accuracy, token, along)]
    for k, shares in measured.exact_match.items():
        known = train & np.isfinite(shares)
        if k > 1 and known.any():
            e = _exponent(token[known], shares[known], k)
            metrics.append(metric(f"exact match of {k} tokens", k, shares, token**e, along**e, e, token**k))
    return MetricStudy(C, budgets, scored, tuple(metrics), _summary(metrics, held_out=fitted is not None))


def _exponent(p: Array, shares: Array, k: int) -> float:
    """e of p^e by least squares of the shares themselves: most are near zero, and some are zero."""
    result = minimize_scalar(
        lambda e: float(((shares - p**e) ** 2).sum()), bounds=(0.05, 3.0 * k), method="bounded", options={"xatol": 1e-6}
    )
    return float(result.x)


def _summary(metrics: list[Metric], *, held_out: bool) -> str:
    sharp = [m for m in metrics if m.tokens > 1]
    if not sharp:
        return "the runs have no exact match of two tokens or more: there is no sharp metric to compare"
    worst = min(sharp, key=lambda m: m.r2)
    runs = "runs that the fit has not seen" if held_out else "runs of the fit"
    foretold = "foretells" if worst.r2 >= EXPLAINED else "does not foretell"
    return (
        f"the loss {foretold} the sharp metrics: predicted through per-token accuracy, {worst.name} has R\u00b2 = {worst.r2:.3f}"
        f" and a largest error of {worst.max_error:.3g} on the {runs}; {sharp[-1].last_decade:.0%} of the rise of"
        f" {sharp[-1].name} falls in the last decade of compute, {metrics[1].last_decade:.0%} of that of accuracy"
    )


def _r2(measured: Array, predicted: Array) -> float:
    """1 - residual over total sum of squares; 1 for a constant that is met, nan for one that is missed or for a single run."""
    error, total = float(((measured - predicted) ** 2).sum()), float(((measured - measured.mean()) ** 2).sum())
    return 1 - error / total if total > 0 else float("nan")


def _last_decade(budgets: Array, values: Array) -> float:
    """The share of the change over all budgets that falls in the last factor of ten; nan where nothing changes."""
    before = float(np.interp(np.log(budgets[-1] / 10), np.log(budgets), values))
    change = float(values[-1] - values[0])
    return float(values[-1] - before) / change if change else float("nan")


def _shares(cell: object, where: str) -> dict[int, float]:
    """{k: share} of one cell; {} for an empty one."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)) or (isinstance(cell, str) and not cell.strip()):
        return {}
    try:
        found = json.loads(cell) if isinstance(cell, str) else cell
        if not isinstance(found, Mapping):
            raise TypeError
        shares = {int(k): float(share) for k, share in found.items() if share is not None}
    except (TypeError, ValueError, RecursionError) as error:
        raise TableError(f'{where}: not a mapping of token counts to shares, such as {{"2": 0.1}}') from error
    if min(shares, default=1) < 1:
        raise TableError(f"{where}: a match has at least 1 token")
    _check_shares(np.array(list(shares.values())), where)
    return shares


def _check_shares(values: Array, where: str) -> None:
    if not (np.isnan(values) | ((values >= 0) & (values <= 1))).all():
        raise TableError(f"{where}: shares must lie between 0 and 1")
