"""Predictive intervals for a new run: the curve's uncertainty, a run's noise, and the drift of runs away from laws fitted below them.

A law is wrong in small ways that grow beyond the data (the discrepancy of Kennedy & O'Hagan 2001), and resampling the runs does not
show them. So several laws are fitted, each to all runs and, as a local likelihood (Tibshirani & Hastie 1987), to those of the lowest
losses. Forward chaining over compute (fit on C <= c, score the rest, for several c) weighs them, and measures how fast runs drift off
with distance; where it has seen nothing yet, the smooth part of the residuals stands in for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit  # scipy.stats takes a second to import

from ..laws import Array, FitError, Law, Rows
from ..solver.newton import Mask
from .chaining import Chain, beyond, chain, drift_seen, residual_noise, samples, smooth_part

FEWEST_RUNS = 6
MOST_RUNS = 2000  # a longer table is thinned at random: its forecasts are no better with more
LEAST_NOISE = 1e-9  # of log L: a table without noise is rounded
DRAWS = 200  # bootstrap refits, shared among the members by weight

# Constants of the drift, in log loss per unit of log C; benchmarks/extrapolation.py says how tables change without them.
PRIOR_FOLDS = 4.0  # the smooth part of the residuals counts as much as four folds
SMOOTH_SHARE = 0.8  # drift after one unit, in standard deviations of the smooth part
BEND = 8e-4  # an integrated Brownian motion on top: no law's slope stays what it was over decades


@dataclass(frozen=True)
class Member:
    """One law fitted to one span of the runs: its weight in the stack, params (p,), and bootstrap samples (k, p), in table units."""

    law: Law
    span: float
    weight: float
    params: Array
    samples: Array


@dataclass(frozen=True)
class Scale:
    """A standard deviation of log loss and the degrees of freedom behind it."""

    sd: float
    freedom: float


@dataclass(frozen=True)
class Forecast:
    """The predictive distribution of log L of a new run: the members' mixture, widened by noise and drift.

    noise is the scatter of single runs about the law; drift that of the law's misfit one unit of log C beyond the data, where it is
    a Brownian motion. low and high (3,) bound log N, log D and log C = log 6ND of the runs.
    """

    members: tuple[Member, ...]
    noise: Scale
    drift: Scale
    low: Array
    high: Array

    def interval(self, N: npt.ArrayLike, D: npt.ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Loss of a new run of N parameters on D tokens and the ends of its interval, in nats per token; broadcasts N against D.

        The curve's quantiles, from the stack's bootstrap, and Student's t of noise and drift add in quadrature on either side.
        Raises FitError unless N and D are positive and finite and 0 < level < 1.
        """
        sizes, lengths = np.broadcast_arrays(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
        shape, sizes, lengths = sizes.shape, sizes.ravel(), lengths.ravel()
        _check(sizes, lengths, level)
        centre = np.zeros(len(sizes))
        curves = []
        for member in self.members:
            centre += member.weight * _log_loss(member.law, member.params[None], sizes, lengths)[0]
            curves.append(_log_loss(member.law, member.samples, sizes, lengths))
        upper = 0.5 * (1.0 + level)
        curve = np.quantile(np.concatenate(curves), [1.0 - upper, upper], axis=0) - centre

        x, z = np.log(sizes), np.log(lengths)
        distance = beyond(np.stack([x, z, x + z + np.log(6.0)]), self.low, self.high)
        noise, drift = self.noise.sd**2, self.drift.sd**2 * distance
        # Satterthwaite (1946): the degrees of freedom of a sum of two estimated variances.
        freedom = (noise + drift) ** 2 / (noise**2 / self.noise.freedom + drift**2 / self.drift.freedom)
        scatter = stdtrit(freedom, upper) ** 2 * (noise + drift) + ndtri(upper) ** 2 * BEND**2 * distance**3
        below, above = np.sqrt(curve**2 + scatter)
        return (
            np.exp(centre).reshape(shape),
            np.exp(centre - below).reshape(shape),
            np.exp(centre + above).reshape(shape),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, which `from_json` reads back."""
        return {
            "members": [
                {
                    "law": member.law.name,
                    "span": member.span,
                    "weight": member.weight,
                    "params": member.params.tolist(),
                    "samples": member.samples.tolist(),
                }
                for member in self.members
            ],
            "noise": {"sd": self.noise.sd, "freedom": self.noise.freedom},
            "drift": {"sd": self.drift.sd, "freedom": self.drift.freedom},
            "low": self.low.tolist(),
            "high": self.high.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], laws: Sequence[Law]) -> Forecast:
        """The forecast that `to_json` wrote, with its laws found by name. Raises FitError for anything else."""
        known = {law.name: law for law in laws}
        try:
            unknown = [str(part["law"]) for part in data["members"] if part["law"] not in known]
            if unknown:
                raise FitError(f"forecast: law {unknown[0]!r} is unknown; allowed are {', '.join(known)}")
            members = tuple(_member(part, known[part["law"]]) for part in data["members"])
            scales = [Scale(float(data[name]["sd"]), float(data[name]["freedom"])) for name in ("noise", "drift")]
            low, high = (np.array(data[name], dtype=np.float64).reshape(3) for name in ("low", "high"))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FitError):
                raise
            raise FitError(f"forecast: not what a fit writes ({type(error).__name__}: {error})") from error
        return cls(members, scales[0], scales[1], low, high)


def forecast(
    rows: Rows, laws: Sequence[Law], *, se: Array | None = None, delta: float = 1e-3, seed: int = 0
) -> Forecast:
    """The predictive distribution from the runs, stacking `laws`, each fitted by log-Huber of `delta` under the rows' weights.

    se (n,), where known, are standard errors of log L of each run: a new run is no less noisy than the median of them.
    Raises FitError for fewer than 6 runs, no law, or an se that is not positive.
    """
    chained = chain_of(rows, laws, se=se, delta=delta, seed=seed)
    return forecast_of(chained, se=se, delta=delta, seed=seed)


def chain_of(rows: Rows, laws: Sequence[Law], *, se: Array | None, delta: float, seed: int) -> Chain:
    """What a forecast rests on: all laws chained over a table, a long one thinned. Raises as `forecast`."""
    _check_runs(rows, laws, se)
    if len(rows.y) > MOST_RUNS:
        rows = rows.take(np.sort(np.random.default_rng(seed).choice(len(rows.y), MOST_RUNS, replace=False)))
    return chain(rows, laws, delta)


def forecast_of(chained: Chain, *, se: Array | None, delta: float, seed: int) -> Forecast:
    """The forecast of laws that are chained already. Raises FitError where none of them has finite parameters."""
    rows, rng = chained.rows, np.random.default_rng(seed)
    noise, freedom = residual_noise(chained)
    seen = drift_seen(chained, noise)
    prior = SMOOTH_SHARE**2 * smooth_part(chained)
    drift = (PRIOR_FOLDS * prior + max(float(seen.sum()), 0.0)) / (PRIOR_FOLDS + len(seen))
    known = LEAST_NOISE if se is None else float(np.median(se))
    where = chained.where + np.array([[rows.x_mean], [rows.z_mean], [rows.c_mean]])
    return Forecast(
        members=_members(chained, delta, rng),
        noise=Scale(max(float(np.sqrt(noise)), known), freedom),
        drift=Scale(float(np.sqrt(drift)), PRIOR_FOLDS + len(seen)),
        low=where.min(axis=1),
        high=where.max(axis=1),
    )


def _members(chained: Chain, delta: float, rng: np.random.Generator) -> tuple[Member, ...]:
    """The members in table units, without those whose share is too small for a refit."""
    members = []
    for member, refits in zip(chained.members, samples(chained, DRAWS, delta, rng), strict=True):
        params = member.law.natural(np.vstack([member.theta, refits]), chained.rows)
        finite: Mask = np.asarray(np.isfinite(params).all(axis=1))  # an amplitude may exceed the largest float
        if finite[0] and finite[1:].any():
            members.append(Member(member.law, member.span, member.share, params[0], params[1:][finite[1:]]))
    if not members:
        raise FitError("no law has finite parameters on these runs: one of N and D makes no difference to the loss")
    total = sum(member.weight for member in members)
    return tuple(replace(member, weight=member.weight / total) for member in members)


def _log_loss(law: Law, params: Array, N: Array, D: Array) -> Array:
    """log L at params (s, p) for N and D (k,): (s, k); a loss of 0 or infinity at absurd sizes becomes the nearest finite one."""
    with np.errstate(over="ignore", under="ignore"):
        losses: Array = np.clip(np.nan_to_num(law.loss(params, N, D), nan=1e300), 1e-300, 1e300)
    return np.log(losses)


def _member(part: dict[str, Any], law: Law) -> Member:
    params = np.array(part["params"], dtype=np.float64).reshape(len(law.params))
    refits = np.array(part["samples"], dtype=np.float64).reshape(-1, len(law.params))
    return Member(law, float(part["span"]), float(part["weight"]), params, refits)


def _check(N: Array, D: Array, level: float) -> None:
    for name, values in (("N", N), ("D", D)):
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(wrong):
            raise FitError(f"{name} must be positive and finite, not {values[wrong[0]]:g} (row {wrong[0] + 1})")
    if not 0.0 < level < 1.0:
        raise FitError(f"level must lie between 0 and 1, not {level:g}")


def _check_runs(rows: Rows, laws: Sequence[Law], se: Array | None) -> None:
    if len(rows.y) < FEWEST_RUNS:
        raise FitError(f"{len(rows.y)} runs are too few to forecast from; at least {FEWEST_RUNS} are needed")
    if not laws:
        raise FitError("a forecast needs at least one law")
    if se is not None and not (len(se) == len(rows.y) and (np.isfinite(se) & (se > 0)).all()):
        raise FitError(f"se must hold a positive and finite number for each of the {len(rows.y)} runs")
