"""Which runs to train next: the (N, D) points that tell most about the frontier per FLOP, beside a plain grid of the same cost.

Runs of one N share a trunk and branch into cooldowns (Hägele et al. 2024, arXiv 2405.18392), so a set of them costs
6 N ((1 - s) max D + s sum D), with s the cooldown's share of D. Points are picked greedily and then exchanged (Fedorov 1972; Atkinson, Donev
& Tobias 2007), by the variance of a, log N*(C) or log L*(C) (c-optimal), or by the volume of all parameters (D-optimal).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..laws import FLOPS_PER_PARAMETER_AND_TOKEN, Array, FitError
from ..plain import plain_fields
from .information import TARGETS, Errors, covariance, effective_variance, errors, local
from .selection import COOLDOWN, Told, cost, flops_each, select

SPACING = 2.0  # between neighbouring candidates, in N and in D
AVERAGED = 16  # bootstrap samples that the design is averaged over
PLAIN_SIDES = range(2, 9)
PLAIN_SPACING = 1.25
ASSUMPTIONS = (
    "the law holds at every candidate, noise in log L is normal, the same everywhere and independent even between runs of one trunk,"
    " and standard errors are first-order"
)


@dataclass(frozen=True)
class PlainGrid:
    """A geometric grid from the smallest run upwards, with shared trunks: N, D (k,), its cost in FLOPs, and the errors with it."""

    N: Array
    D: Array
    flops: float
    errors: Errors


@dataclass(frozen=True)
class Design:
    """The next runs N, D (k,), sorted, and expected standard errors before, after them, and after a plain grid of the same cost.

    `flops_each` (k,) is what each run adds to its trunk in order of D; `noise` the standard deviation of log L of a run;
    `variance_inflation` how much more than least squares the fit's loss makes of it. `plain` is None where no grid is affordable.
    """

    target: str
    C_target: float
    N: Array
    D: Array
    flops_each: Array
    flops: float
    flops_allowed: float
    noise: float
    variance_inflation: float
    before: Errors
    after: Errors
    plain: PlainGrid | None
    assumptions: str

    @property
    def variance_ratio(self) -> float | None:
        """Variance of the target after the plain grid over that after the design: above one the design wins."""
        return None if self.plain is None else (self.plain.errors.of(self.target) / self.after.of(self.target)) ** 2

    def to_json(self) -> dict[str, object]:
        """The fields, with `runs` as one {N, D, flops} each in place of the three arrays, and `variance_ratio`."""
        runs = [
            {"N": float(n), "D": float(d), "flops": float(c)}
            for n, d, c in zip(self.N, self.D, self.flops_each, strict=True)
        ]
        rest = {name: value for name, value in plain_fields(self).items() if name not in ("N", "D", "flops_each")}
        return {"runs": runs} | rest | {"variance_ratio": self.variance_ratio}


def next_runs(
    params: Array,
    N: Array,
    D: Array,
    flops: float,
    *,
    noise: float,
    delta: float | None = 1e-3,
    samples: Array | None = None,
    target: str = "a",
    C_target: float | None = None,
    cooldown: float = COOLDOWN,
    most_tokens: float = np.inf,
) -> Design:
    """The runs that lower the variance of `target` most within `flops`, given those at N, D (n,) and the law params (5,) fitted to them.

    Args:
        noise: standard deviation of log L between runs of one N and D; `noise_of` and `bootstrap_noise` estimate it from a fit.
        delta: of the fit's log-Huber loss, None for least squares.
        samples: bootstrap params (S, 5); the design is averaged over some, so that it does not hang on the point estimate.
        target: "a", "N" (log N*(C_target)), "L" (log L*(C_target)) or "det" (all parameters).
        C_target: FLOPs; ten times the largest run's if None.
        cooldown: share of D that a run does not share with its trunk; 1 where a schedule depends on D and nothing is shared.
        most_tokens: largest D, such as the corpus's unique tokens.

    Raises:
        FitError: a law without an optimum, wrong settings, or a budget below the cheapest candidate.
    """
    if target not in TARGETS:
        raise FitError(f"design: target must be one of {', '.join(TARGETS)}, not {target!r}")
    if not 0 < flops < np.inf:
        raise FitError(f"design: flops must be positive and finite, not {flops:g}")
    if C_target is not None and not 0 < C_target < np.inf:
        raise FitError(f"design: C_target must be positive and finite, in FLOPs, not {C_target:g}")
    if not 0 <= cooldown <= 1:
        raise FitError(f"design: cooldown is a share of D, from 0 to 1, not {cooldown:g}")
    C_target = 10 * FLOPS_PER_PARAMETER_AND_TOKEN * float((N * D).max()) if C_target is None else C_target
    variance = effective_variance(noise, delta)
    spread = np.empty((0, 5)) if samples is None else samples[:: max(1, len(samples) // AVERAGED)]
    at = local(np.concatenate([params[None], spread]), N, D)
    before = covariance(at.gradient(N, D), variance)

    def after(more_N: Array, more_D: Array) -> Errors:
        gradient = at.gradient(np.concatenate([N, more_N]), np.concatenate([D, more_D]))
        return errors(at, covariance(gradient, variance), C_target)

    grids = [
        PlainGrid(n, d, cost(n, d, cooldown), after(n, d)) for n, d in plain_grids(N, D, flops, cooldown, most_tokens)
    ]
    plain = min(grids, key=lambda grid: grid.errors.of(target), default=None)
    grid_N, grid_D = candidates(N, D, flops, most_tokens)
    start: list[int] = []
    if plain is not None:  # the search starts from it too, so that it cannot end behind it
        start = list(range(len(plain.N)))
        grid_N, grid_D = _joined(plain, grid_N, grid_D)
    told = Told(
        np.asarray(np.linalg.inv(before)),
        at.gradient(grid_N, grid_D) / np.sqrt(variance),
        None if target == "det" else at.directions(C_target)[target],
    )
    chosen = select(told, grid_N, grid_D, flops, cooldown, start)
    new_N, new_D = grid_N[chosen], grid_D[chosen]
    each = flops_each(new_N, new_D, cooldown)
    return Design(
        target=target,
        C_target=C_target,
        N=new_N,
        D=new_D,
        flops_each=each,
        flops=float(each.sum()),
        flops_allowed=flops,
        noise=noise,
        variance_inflation=variance / noise**2,
        before=errors(at, before, C_target),
        after=after(new_N, new_D),
        plain=plain,
        assumptions=ASSUMPTIONS,
    )


def candidates(N: Array, D: Array, flops: float, most_tokens: float = np.inf) -> tuple[Array, Array]:
    """Points N, D (m,) of a grid of powers of SPACING around the runs N, D (n,), from half the smallest up to what `flops` affords.

    Raises FitError where `flops` or `most_tokens` leaves none.
    """
    least_N, least_D = N.min() / 2, D.min() / 2
    affordable = flops / FLOPS_PER_PARAMETER_AND_TOKEN
    steps = max(0, int(np.log(max(affordable / least_N / least_D, 1.0)) / np.log(SPACING)))
    powers = SPACING ** np.arange(steps + 1)
    n, d = (grid.ravel() for grid in np.meshgrid(least_N * powers, least_D * powers, indexing="ij"))
    kept = (n * d <= affordable) & (d <= most_tokens) & _tested(n, d, N, D)
    if most_tokens < least_D:
        raise FitError(f"design: most_tokens = {most_tokens:.3g} is below the smallest D of a candidate, {least_D:.3g}")
    if not kept.any():
        cheapest = FLOPS_PER_PARAMETER_AND_TOKEN * least_N * least_D
        raise FitError(f"design: {flops:.3g} FLOPs afford no run; the cheapest candidate takes {cheapest:.3g}")
    return n[kept], d[kept]


def plain_grids(
    N: Array, D: Array, flops: float, cooldown: float, most_tokens: float = np.inf
) -> list[tuple[Array, Array]]:
    """Geometric k x k grids from the smallest N and D of the runs, for k = 2 to 8, each stretched alike in N and D until it costs `flops`.

    Without the points whose tokens per parameter no candidate may have. Sides whose points would lie closer than PLAIN_SPACING are left out.
    """

    def grid(side: int, stretch: float) -> tuple[Array, Array]:
        top = min(D.min() * (D.max() / D.min() + 1.0) ** stretch, most_tokens)
        sizes = np.geomspace(N.min(), N.min() * (N.max() / N.min() + 1.0) ** stretch, side)
        n, d = (g.ravel() for g in np.meshgrid(sizes, np.geomspace(D.min(), top, side), indexing="ij"))
        kept = _tested(n, d, N, D) & (d <= most_tokens)
        return n[kept], d[kept]

    found = []
    for side in PLAIN_SIDES:
        low, high = 0.0, 8.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(*grid(side, middle), cooldown) <= flops else (low, middle)
        n, d = grid(side, low)
        if len(n) > side and min(_gap(n), _gap(d)) > np.log(PLAIN_SPACING):
            found.append((n, d))
    return found


def _tested(n: Array, d: Array, N: Array, D: Array) -> npt.NDArray[np.bool_]:
    """Whether points n, d have tokens per parameter within twice those of the runs N, D, or eight times their median where they hardly vary.

    Elsewhere nothing says that the law holds, however much it would tell there.
    """
    ratio, median = D / N, float(np.median(D / N))
    return np.asarray((d / n >= min(ratio.min() / 2, median / 8)) & (d / n <= max(ratio.max() * 2, median * 8)))


def _gap(values: Array) -> float:
    """The smallest difference of the logs of different values; 0 for one value."""
    return float(np.diff(np.unique(np.log(values))).min(initial=np.inf)) if np.ptp(values) > 0 else 0.0


def _joined(plain: PlainGrid, N: Array, D: Array) -> tuple[Array, Array]:
    """The plain grid's points, then the candidates N, D that are not within about a tenth of one of them."""
    n, d = np.concatenate([plain.N, N]), np.concatenate([plain.D, D])
    near = (np.abs(np.log(N[:, None] / plain.N)) < 0.1) & (np.abs(np.log(D[:, None] / plain.D)) < 0.1)
    kept = np.append(np.full(len(plain.N), True), ~near.any(axis=1))
    return n[kept], d[kept]
