"""Forward chaining over compute: laws fitted on the runs up to a compute, scored on those beyond, for several of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from ..laws import Array, Law, Rows
from ..solver.losses import NORMAL_MAD, huber
from ..solver.newton import Mask, minimise

SPANS = (
    1.0,
    0.4,
    0.15,
)  # effective shares of the runs that each law is fitted to; loess (Cleveland 1979) has 0.2 to 0.8
FEWEST_EFFECTIVE = 12.0  # runs: about two for each of five parameters
CUTS = (2.0, 3.0, 5.0, 10.0, 30.0)  # a fold is fitted on C <= C_max / cut
FEWEST_TRAINED = 8
SHORTEST_TRAINED = 0.6  # of log C, a factor of 1.8: a shorter fold has seen one budget only
STARTS = 2  # of the law's grid, for each fold and span
SOFT = 0.01  # Huber's delta of the first stage, and of the screening of starts
NO_BETTER = 0.002  # of log loss: RMS errors below this do not tell laws apart
NEIGHBOURS = 2
OUTLYING = 6.0


@dataclass(frozen=True)
class Fitted:
    """A law fitted under row weights (n,), the runs of lowest loss counting most when span < 1: theta (p,) and its stack weight."""

    law: Law
    span: float
    weights: Array
    theta: Array
    share: float


@dataclass(frozen=True)
class Chain:
    """All members on all folds. trained (folds, n): the runs a fold is fitted on, all of them in the first; errors (members, folds, n)
    of log L; where (3, n): log N, log D, log C, centred."""

    rows: Rows
    where: Array
    trained: Mask
    members: tuple[Fitted, ...]
    errors: Array

    @property
    def shares(self) -> Array:
        return np.array([member.share for member in self.members])

    def only(self, law: Law) -> Chain:
        """The members of one law, their shares among themselves."""
        kept = [number for number, member in enumerate(self.members) if member.law is law]
        errors = self.errors[kept]
        shares = stack(errors, self.trained)
        members = tuple(replace(self.members[i], share=float(share)) for i, share in zip(kept, shares, strict=True))
        return replace(self, members=members, errors=errors)


def chain(rows: Rows, laws: Sequence[Law], delta: float) -> Chain:
    """Every law on every span of every fold, under Huber's loss of log L."""
    trained = folds(rows)
    focused = np.stack([[rows.weight * focus(rows.y, seen, span) for seen in trained] for span in SPANS])
    parts, errors = [], []
    for law in laws:
        fitted = fit_weighted(law, rows, focused.reshape(-1, len(rows.y)), delta)
        for span, weights, theta in zip(SPANS, focused, fitted.reshape(*focused.shape[:2], -1), strict=True):
            parts.append((law, span, weights[0], theta[0]))
            errors.append(rows.y - law.shares(theta, rows).f)
    shares = stack(np.array(errors), trained)
    members = tuple(Fitted(*part, float(share)) for part, share in zip(parts, shares, strict=True))
    return Chain(rows, np.stack([rows.x, rows.z, rows.x + rows.z]), trained, members, np.array(errors))


def folds(rows: Rows) -> Mask:
    """All runs, then those with C <= C_max / cut for each cut that leaves enough of them and drops some: (folds, n)."""
    log_C = rows.x + rows.z
    found: list[Mask] = [np.ones(len(log_C), dtype=bool)]
    for cut in CUTS:
        seen = log_C <= log_C.max() - np.log(cut) + 1e-9
        enough = seen.sum() >= FEWEST_TRAINED and np.ptp(log_C[seen]) >= SHORTEST_TRAINED
        if enough and np.ptp(rows.x[seen]) > 0 and np.ptp(rows.z[seen]) > 0 and seen.sum() < found[-1].sum():
            found.append(seen)
    return np.array(found)


def focus(y: Array, kept: Mask, span: float) -> Array:
    """Row weights exp(-k (y - min y)) of the kept runs, k such that Kish's effective number of runs is `span` of theirs: (n,)."""
    n = int(kept.sum())
    wanted = max(FEWEST_EFFECTIVE, span * n)
    if wanted >= n:
        return kept.astype(np.float64)
    above = np.where(kept, y - y[kept].min(), np.inf)
    low, high = 0.0, 1e3
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(np.exp(-middle * above)) > wanted else (low, middle)
    return np.exp(-low * above)


def effective(weights: Array) -> float:
    """Kish's (1965) effective number of runs, (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def fit_weighted(law: Law, rows: Rows, weights: Array, delta: float) -> Array:
    """The best theta (S, p) under each row of weights (S, n), from the starts of the law's grid that fit best under them."""
    starts = law.starts(rows)
    cost = weights @ huber(rows.y - law.shares(starts, rows).f, SOFT).T
    first = np.argsort(cost, axis=1, kind="stable")[:, :STARTS]
    each = np.repeat(weights, first.shape[1], axis=0)
    softened = minimise(law, rows, each, starts[first.ravel()], max(SOFT, delta), 40)
    found = minimise(law, rows, each, softened.theta, delta, 40)
    best = np.argmin(found.objective.reshape(first.shape), axis=1)
    theta: Array = found.theta.reshape(*first.shape, -1)[np.arange(len(weights)), best]
    return theta


def stack(errors: Array, trained: Mask) -> Array:
    """Weights (members,) in proportion to the product over folds of 1/RMS of the errors (members, folds, n) on the runs not seen.

    They are the likelihoods of each fold as one error of known size; without folds the errors on all runs decide.
    """
    scored, chained = (~trained[1:], errors[:, 1:]) if len(trained) > 1 else (trained, errors)
    rms = np.sqrt((chained**2 * scored).sum(axis=2) / scored.sum(axis=1))
    score = np.log(rms + NO_BETTER).sum(axis=1)
    weights = np.exp(score.min() - score)
    return np.asarray(weights / weights.sum())


def residual_noise(chained: Chain) -> tuple[float, float]:
    """The variance of log L of a run about the stack's members, and its degrees of freedom.

    Runs count as they do in a member, those of low loss for more. Under such weights a parameter costs about half a degree of freedom
    (simulated grids of 25 and 64 runs).
    """
    variance = freedom = 0.0
    for member, errors in zip(chained.members, chained.errors[:, 0], strict=True):
        runs = effective(member.weights)
        free = runs - 0.5 * len(member.theta)
        variance += member.share * _winsorised(errors, member.weights) * runs / free
        freedom += member.share * free
    return variance, freedom


def _winsorised(errors: Array, weights: Array) -> float:
    """The weighted mean square of errors (n,), those beyond 6 robust standard deviations counting as 6."""
    size = np.sort(np.abs(errors))
    summed = np.cumsum(weights[np.argsort(np.abs(errors), kind="stable")])
    robust = NORMAL_MAD * size[np.searchsorted(summed, 0.5 * summed[-1])]
    return float(weights @ np.minimum(np.abs(errors), OUTLYING * robust) ** 2 / weights.sum())


def smooth_part(chained: Chain) -> float:
    """The part of the residuals' variance that neighbours in (log N, log D) share: what is misfit rather than noise.

    Of the law that fits all runs best. It is the sill of the residuals' variogram less its nugget, and 0 where a law holds.
    """
    whole = chained.errors[[member.span == 1.0 for member in chained.members], 0]
    residual = whole[np.argmin((whole**2).sum(axis=1))]
    points = chained.where[:2].T
    near = np.asarray(cKDTree(points).query(points, k=NEIGHBOURS + 1)[1])[:, 1:]
    return max(float(np.mean(residual[:, None] * residual[near])), 0.0)


def drift_seen(chained: Chain, noise: float) -> Array:
    """Each fold's variance of the stack's errors per unit of distance, beyond noise and the members' disagreement: (folds - 1,).

    A fold of fewer runs errs more than the whole table will: its variance counts in proportion to its runs.
    """
    shares, found = chained.shares, []
    for k, seen in enumerate(chained.trained[1:], start=1):
        where = chained.where[:, seen]
        distance = beyond(chained.where[:, ~seen], where.min(axis=1), where.max(axis=1))
        errors = chained.errors[:, k, ~seen]
        centre = shares @ errors
        excess = centre**2 - shares @ (errors - centre) ** 2 - noise
        found.append(excess.sum() / distance.sum() * seen.mean())
    return np.array(found)


def beyond(where: Array, low: Array, high: Array) -> Array:
    """How far points (3, k) of log N, log D, log C lie outside the range of the runs: the largest of the three, 0 inside; (k,)."""
    outside: Array = np.maximum(where - high[:, None], low[:, None] - where).max(axis=0)
    return np.maximum(outside, 0.0)


def samples(chained: Chain, count: int, delta: float, rng: np.random.Generator) -> Iterator[Array]:
    """Per member its part of `count` refits, theta (k, p), each under exponential row weights (the Bayesian bootstrap, Rubin 1981)."""
    ends = np.round(count * np.cumsum([0.0, *chained.shares])).astype(int)
    for member, refits in zip(chained.members, np.diff(ends), strict=True):
        weights = rng.exponential(size=(refits, len(member.weights))) * member.weights
        start = np.broadcast_to(member.theta, (refits, len(member.theta)))
        yield minimise(member.law, chained.rows, weights, start, 3.0 * delta, 40).theta if refits else start
