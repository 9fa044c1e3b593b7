"""The set of candidate runs that says most of a target within a budget: greedy choice, then exchanges, with trunks paid once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..laws import FLOPS_PER_PARAMETER_AND_TOKEN, Array

COOLDOWN = 0.2  # share of D, as in train/schedule.py
MOST_RUNS = 64
ROUNDS = 20  # of exchanges at most; a few are enough
WORTH = 1e-4  # of log variance: an exchange that gains less is not made


@dataclass(frozen=True)
class Told:
    """What is known and what candidates would add, at S parameter vectors.

    information (S, p, p) of the runs that exist; gradient (S, m, p) of log L at the candidates over the noise; direction (S, p) of the
    target, None for the determinant of all.
    """

    information: Array
    gradient: Array
    direction: Array | None

    def uncertainty(self, chosen: list[int]) -> float:
        """Mean log variance of the target, or mean log determinant of the covariance, with the chosen candidates."""
        return float(self._log(self._covariance(chosen)).mean())

    def gains(self, chosen: list[int]) -> Array:
        """How much each candidate (m,) lowers the uncertainty when it joins the chosen: the rank-one update of the covariance."""
        covariance = self._covariance(chosen)
        towards = self.gradient @ covariance
        leverage = (towards * self.gradient).sum(axis=2)
        if self.direction is None:
            return np.asarray(np.log1p(leverage).mean(axis=0))
        variance = np.exp(self._log(covariance))[:, None]
        removed = (towards @ self.direction[:, :, None])[:, :, 0] ** 2 / (1 + leverage)
        return np.asarray(-np.log1p(-removed / variance).mean(axis=0))

    def _covariance(self, chosen: list[int]) -> Array:
        picked = self.gradient[:, chosen]
        return np.asarray(np.linalg.inv(self.information + np.swapaxes(picked, 1, 2) @ picked))

    def _log(self, covariance: Array) -> Array:
        if self.direction is None:
            return np.asarray(np.linalg.slogdet(covariance)[1])
        return np.asarray(np.log(np.einsum("si,sij,sj->s", self.direction, covariance, self.direction)))


def select(told: Told, N: Array, D: Array, flops: float, cooldown: float, start: list[int]) -> list[int]:
    """Indices of the candidates N, D (m,) to train, sorted by N and D, each at most once; they cost at most `flops`.

    Filled greedily, by gain per FLOP, by gain, and on top of `start`; each then improved: one run is taken out and the budget filled
    again, while that helps.
    """
    fillers = tuple(_Filler(told, N, D, flops, cooldown, per_flop) for per_flop in (True, False))
    found = [_exchange(fillers, filler.fill([])) for filler in fillers]
    found.append(_exchange(fillers, fillers[0].fill(start)))
    best, _ = min(found, key=lambda one: one[1])
    return sorted(best, key=lambda i: (N[i], D[i]))


def cost(N: Array, D: Array, cooldown: float = COOLDOWN) -> float:
    """FLOPs of runs at N, D (k,), those of one N on one trunk: 6 N ((1 - cooldown) max D + cooldown sum D) each."""
    return float(flops_each(N, D, cooldown).sum())


def flops_each(N: Array, D: Array, cooldown: float = COOLDOWN) -> Array:
    """What each run (k,) adds to its trunk, as the sweep's plan counts it: its stretch beyond the run of next smaller D, and its cooldown."""
    order = np.lexsort((D, N))
    branch = (1 - cooldown) * D[order]
    start = np.where(np.append(False, np.diff(N[order]) == 0), np.append(0.0, branch[:-1]), 0.0)
    each = np.empty(len(N))
    each[order] = FLOPS_PER_PARAMETER_AND_TOKEN * N[order] * (branch - start + cooldown * D[order])
    return each


@dataclass(frozen=True)
class _Filler:
    """Adds the candidate that gains most, or most per FLOP, until none that gains is affordable."""

    told: Told
    N: Array
    D: Array
    flops: float
    cooldown: float
    per_flop: bool

    def fill(self, chosen: list[int]) -> list[int]:
        chosen = list(chosen)
        while len(chosen) < MOST_RUNS:
            extra = self._extra(chosen)
            left = self.flops - float(flops_each(self.N[chosen], self.D[chosen], self.cooldown).sum())
            gains = self.told.gains(chosen)
            worth = np.where(extra <= left, gains / extra if self.per_flop else gains, 0.0)
            worth[chosen] = 0.0
            best = int(worth.argmax())
            if gains[best] < WORTH or worth[best] <= 0:
                break
            chosen.append(best)
        return chosen

    def _extra(self, chosen: list[int]) -> Array:
        """FLOPs that each candidate (m,) would add: what its trunk lacks, and its cooldown."""
        sizes, lengths = self.N[chosen], self.D[chosen]
        trained = np.where(self.N[:, None] == sizes, lengths, 0.0).max(axis=1, initial=0.0)
        beyond = (1 - self.cooldown) * np.maximum(self.D - trained, 0.0)
        return np.asarray(FLOPS_PER_PARAMETER_AND_TOKEN * self.N * (beyond + self.cooldown * self.D))


def _exchange(fillers: tuple[_Filler, ...], chosen: list[int]) -> tuple[list[int], float]:
    least = fillers[0].told.uncertainty(chosen)
    for _ in range(ROUNDS):
        before = least
        for run in list(chosen):
            if run not in chosen:
                continue
            rest = [other for other in chosen if other != run]
            for filler in fillers:
                tried = filler.fill(rest)
                reached = filler.told.uncertainty(tried)
                if reached < least - WORTH:
                    chosen, least = tried, reached
        if least >= before - WORTH:
            break
    return chosen, least
