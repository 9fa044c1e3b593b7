"""What a table says of the noise of single runs, and what a fit makes of it: weights of runs, and how they are resampled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import brentq

from ..laws import Array, Law, Rows
from ..solver.losses import NORMAL_MAD, Loss
from ..solver.optimize import Optimum, global_minimum
from ..tables.columns import is_ledger
from ..tables.table import RunTable
from .intervals import RESAMPLES_AT_ONCE, refit
from .resampling import cluster_weights, default_bootstrap, wild_bootstrap

FEWEST_SEEDS = 3  # degrees of freedom behind a standard deviation between seeds
ENOUGH_RESAMPLES = 200  # for 95 % intervals
MOST_REFITTED = 10**8  # rows times resamples: minutes
FEWEST_CLUSTERS = 10  # that hold several rows: with fewer, resamples of whole clusters are too alike


def run_errors(table: RunTable) -> tuple[Array | None, tuple[str, ...]]:
    """Standard errors of log L of single runs (n,), None where the table has none that differ from run to run, and a line that says so.

    A ledger's test_loss_se is the error of the test documents, which all runs of a sweep share: it is neither a weight nor noise
    between runs. Seeds say what that is.
    """
    if table.se is not None and not is_ledger(table.frame):
        return table.se, ()
    notes: tuple[str, ...] = ()
    if table.se is not None:
        notes = ("the standard errors of a ledger are no weights: all runs are tested on the same documents",)
    if table.seed_sd is not None and table.seed_df >= FEWEST_SEEDS:
        found = f"log L differs by {table.seed_sd:.2%} between seeds (standard deviation, {table.seed_df} degrees of freedom)"
        return np.full(len(table.N), table.seed_sd), (*notes, found)
    return None, notes


def weighted(law: Law, rows: Rows, loss: Loss, se: Array | None) -> tuple[Rows, tuple[str, ...]]:
    """The rows with weights 1/(se^2 + s^2) of mean 1 where se (n,) differs from run to run, and a line that says so.

    s is the misfit of the law beyond se, from a fit without weights (Paule & Mandel 1982, by medians).
    """
    if se is None or np.ptp(se) < 1e-3 * se.max():
        return rows, ()
    best = global_minimum(law, rows, loss)
    s = _misfit(np.abs(rows.y - law.shares(best.theta[None], rows).f[0]), se, len(best.theta))
    weight = 1.0 / (se**2 + s**2)
    said = (
        f"runs are weighted by 1/(se^2 + s^2), se their standard errors of log L and s = {s:.2%} the misfit beyond them"
    )
    return replace(rows, weight=weight / weight.mean()), (said,)


def _misfit(size: Array, se: Array, parameters: int) -> float:
    """s with which the sizes of residuals (n,) have the median of normal ones of variance se^2 + s^2; 0 where se alone is enough.

    A fit near the L1 norm passes through as many runs as it has parameters: those are left out.
    """
    kept = np.argsort(size)[parameters:]
    size, se = size[kept], se[kept]

    def excess(s: float) -> float:
        return NORMAL_MAD * float(np.median(size / np.sqrt(se**2 + s**2))) - 1.0

    largest = NORMAL_MAD * float(size.max())
    return float(brentq(excess, 0.0, largest)) if excess(0.0) > 0.0 > excess(largest) else 0.0


def resample(
    law: Law, rows: Rows, optimum: Optimum, loss: Loss, table: RunTable, count: int, seed: int
) -> tuple[Array, str]:
    """theta (count, p) of the bootstrap, and its name: whole clusters with replacement where at least 10 of them hold several rows, else
    residuals or wild (see `resampling`). In blocks: of a long table only some resamples are held at once."""
    if not count:
        return np.empty((0, len(optimum.theta))), "none"
    most = max(ENOUGH_RESAMPLES, MOST_REFITTED // len(rows.x))
    if count > most:
        shorter, name = resample(law, rows, optimum, loss, table, most, seed)
        return shorter, f"{name}, {most} resamples instead of {count}: the table is long"
    rng, size = np.random.default_rng(seed), max(1, RESAMPLES_AT_ONCE // len(rows.x))
    several = 0 if table.cluster is None else int((np.bincount(table.cluster) > 1).sum())
    few = f"; the {several} clusters of several rows are too few to be drawn whole" if several else ""
    blocks = [min(size, count - first) for first in range(0, count, size)]
    if table.cluster is not None and several >= FEWEST_CLUSTERS:
        drawn = [refit(law, rows, optimum, cluster_weights(table.cluster, block, rng), loss) for block in blocks]
        return np.concatenate(drawn), f"pairs bootstrap of whole clusters, {several} of several rows"
    if len(blocks) == 1:
        samples = default_bootstrap(law, rows, optimum, loss=loss, count=count, rng=rng)
        return samples.theta, f"{samples.scheme} bootstrap{few}"
    drawn = [wild_bootstrap(law, rows, optimum, loss=loss, count=block, rng=rng) for block in blocks]
    return np.concatenate(drawn), f"wild bootstrap{few}"
