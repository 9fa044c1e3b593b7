"""Profile likelihood of a parameter or of any scalar of the parameters: the objective's lowest value with that scalar held fixed.

The objective is a robust one, so that its rise is not chi-square as it stands: it is divided by E[psi^2]/E[psi'] (Hampel, Ronchetti,
Rousseeuw & Stahel 1986, Robust Statistics, section 7.2), estimated from the residuals, and compared with the F distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import fdtri, ndtri  # scipy.stats takes a second to import

from ..laws import Array, FitError, Law, Rows
from ..solver.constrained import Functional, Pull, objective, pulled_minima, slope
from ..solver.losses import Loss, as_loss
from ..solver.newton import minimise
from ..solver.optimize import Optimum
from .quantities import Quantity
from .resampling import noise

POINTS = 41
DOUBLINGS = 10
SWEEPS = 12
SPARSE = 5  # every fifth point of the grid is also started from elsewhere; its neighbours hear of what that finds
STIFFNESS = 1e4  # the spring's strength in units of the objective's own curvature along the functional
ELSEWHERE = np.array([0.15, 0.3, 0.5, 0.9])  # exponents of the starts from elsewhere
SEEN = 4.0  # valleys that lie within so many times the interval's rise are modes
FLAT = 1e-8  # a standard error that is rounding, where the noise has a standard deviation of 1
EXACT = 1e-9  # noise in log L below which there is none
MANY_RUNS = 2000  # with more the objective is smooth, and starts from elsewhere would cost much
RIDGE = 0.05  # what stands between two modes, in units of the interval's rise
SMOOTH = ndtri((np.arange(201) + 0.5) / 201)
LARGEST = 690.0  # of a logarithm, so that the functional stays finite


@dataclass(frozen=True)
class Profile:
    """The profile of one quantity: objective (k,) on grid (k,), increasing. An end of the interval is None where the runs set none.

    `modes` are the values at the profile's valleys, those whose bottom lies within four times the interval's rise of the lowest.
    """

    name: str
    estimate: float
    grid: Array
    objective: Array
    cutoff: float  # the objective up to which a value belongs to the 95 % interval
    interval: tuple[float | None, float | None]  # its outermost ends
    modes: tuple[float, ...]

    @property
    def multimodal(self) -> bool:
        return len(self.modes) > 1


def profile(law: Law, rows: Rows, optimum: Optimum, quantity: Quantity, loss: Loss | float) -> Profile:
    """The profile of a quantity on about 41 points that reach past both ends of its 95 % interval, and around further valleys.

    Points are started from every leading optimum, every fifth from a coarse grid of variable-projection starts too, and all from their
    neighbours' optima. Raises FitError where the quantity does not exist at the optimum or does not depend on the parameters there, and
    where the runs have no noise.
    """
    loss, of = as_loss(loss), _inner(law, rows, quantity)
    errors = noise(law, rows, optimum, loss)
    if float(np.std(errors)) < EXACT:
        raise FitError("the runs lie on the law without any noise: a profile has no interval")
    centre, width = _at_optimum(law, rows, optimum, quantity, of)
    span = 3.0 * width * float(np.std(errors))
    rise = _rise(errors, len(optimum.theta), loss)
    path = _Path(
        law, rows, of, loss, strength=STIFFNESS * 4.5 * rise / span**2
    )  # `rise` is reached near 2/3 of the span
    elsewhere = optimum.leading
    if len(rows.x) <= MANY_RUNS:
        elsewhere = np.concatenate([elsewhere, law.starts(rows, ELSEWHERE)])

    low, high = path.extent(centre, span, optimum, rise)
    valleys = path.valleys(elsewhere, optimum.objective + SEEN * rise)
    grid = centre + np.concatenate([np.linspace(low, 0, POINTS // 2 + 1), np.linspace(0, high, POINTS // 2 + 1)])
    far = valleys[(valleys < centre + low) | (valleys > centre + high)]
    if len(far):
        around = (far[:, None] + span * np.linspace(-1, 1, POINTS // 4)).ravel()
        between = np.linspace(min(around.min(), grid.min()), max(around.max(), grid.max()), POINTS)
        grid = np.concatenate([grid, around, between])
    grid = np.unique(grid)

    theta = path.at(grid, optimum.leading)
    theta[::SPARSE] = path.at(grid[::SPARSE], elsewhere)
    value, reached = path.measure(path.swept(theta, grid))
    order = np.argsort(reached, kind="stable")
    return _read(quantity, reached[order], value[order], centre, optimum.objective, rise)


@dataclass(frozen=True)
class _Path:
    """Minima with the functional pulled to targets (k,)."""

    law: Law
    rows: Rows
    of: Functional
    loss: Loss
    strength: float

    def at(self, targets: Array, starts: Array) -> Array:
        """The best minimum over all starts (s, p) at each target: theta (k, p)."""
        k, s = len(targets), len(starts)
        theta, total = self._pulled(np.tile(starts, (k, 1)), np.repeat(targets, s))
        return np.asarray(theta[total.reshape(k, s).argmin(axis=1) + s * np.arange(k)])

    def swept(self, theta: Array, targets: Array) -> Array:
        """theta (k, p) after each point has tried what its neighbours found, until none gains."""
        theta, total = self._pulled(theta, targets)
        for _ in range(SWEEPS):
            before = total
            for shift in (1, -1):
                tried, reached = self._pulled(np.roll(theta, shift, axis=0), targets)
                better = reached < total * (1 - 1e-9)
                theta, total = np.where(better[:, None], tried, theta), np.where(better, reached, total)
            if (total == before).all():
                break
        return theta

    def extent(self, centre: float, span: float, optimum: Optimum, rise: float) -> tuple[float, float]:
        """How far below and above `centre` the profile must be drawn to see its rise, or a bound of the law."""
        ends = span * np.array([-1.0, 1.0])
        for _ in range(DOUBLINGS):
            value, reached = self.measure(self.at(centre + ends, optimum.leading))
            stopped = np.abs(reached - centre) < 0.5 * np.abs(ends)
            enough = (value > optimum.objective + 1.5 * rise) | stopped
            if enough.all():
                break
            ends = np.where(enough, ends, 2 * ends)
        return float(ends[0]), float(ends[1])

    def valleys(self, starts: Array, highest: float) -> Array:
        """The functional at the free minima from the starts that are no higher than `highest`."""
        found = minimise(self.law, self.rows, self.rows.weight[None], starts, self.loss, iterations=100)
        return self.of(found.theta[found.objective <= highest])

    def measure(self, theta: Array) -> tuple[Array, Array]:
        """The objective and the functional: (k,) each."""
        return objective(self.law, self.rows, theta, self.loss), self.of(theta)

    def _pulled(self, starts: Array, targets: Array) -> tuple[Array, Array]:
        pull = Pull(self.of, targets, self.strength)
        theta = pulled_minima(self.law, self.rows, starts, self.loss, pull)
        return theta, objective(self.law, self.rows, theta, self.loss) + pull.value(theta)


def _inner(law: Law, rows: Rows, quantity: Quantity) -> Functional:
    """The quantity, or its logarithm, as a finite function of theta."""

    def of(theta: Array) -> Array:
        with np.errstate(all="ignore"):
            value = quantity.of(law.natural(theta, rows))
            value = np.log(value) if quantity.positive else value
        return np.clip(np.nan_to_num(value, nan=0.0, posinf=LARGEST, neginf=-LARGEST), -1e12, 1e12)

    return of


def _at_optimum(law: Law, rows: Rows, optimum: Optimum, quantity: Quantity, of: Functional) -> tuple[float, float]:
    """The functional at the optimum, and the delta method's standard error of it where the noise has a standard deviation of 1."""
    theta = optimum.theta[None]
    if not np.isfinite(quantity.of(law.natural(theta, rows))[0]):
        raise FitError(f"the {law.name} law has no {quantity.name} at its optimum: nothing to profile")
    J, along = np.sqrt(rows.weight) * law.shares(theta, rows).jacobian()[0], slope(of, theta)[0]
    width = float(np.sqrt(along @ np.linalg.pinv(J @ J.T, rcond=1e-12, hermitian=True) @ along))
    if not width > FLAT:
        raise FitError(f"{quantity.name} does not change with the parameters at the optimum: it has no profile")
    return float(of(theta)[0]), width


def _rise(errors: Array, parameters: int, loss: Loss) -> float:
    """How far the objective may rise above its minimum: F_{1, n-p}(.95)/2 times E[psi^2]/E[psi'].

    E[psi'] is that of errors smoothed by a normal kernel of Silverman's width b: E[psi(e + b z) z]/b (Stein's identity).
    """
    n = len(errors)
    quartiles = np.percentile(errors, [25, 75])
    width = 0.9 * max(min(float(np.std(errors)), float(quartiles[1] - quartiles[0]) / 1.34), 1e-12) * n**-0.2
    bend = float(np.mean(loss.slope(errors[:, None] + width * SMOOTH) * SMOOTH)) / (width * float(np.mean(SMOOTH**2)))
    psi2 = float(np.mean(loss.slope(errors) ** 2))
    return float(0.5 * fdtri(1, max(n - parameters, 1), 0.95) * psi2 / max(bend, 1e-300))


def _read(quantity: Quantity, at: Array, value: Array, centre: float, lowest: float, rise: float) -> Profile:
    """The interval where the profile crosses the cut-off, linear between points, and the valleys."""
    apart = np.concatenate([[True], np.diff(at) > 1e-12 * max(1.0, float(np.abs(at).max()))])
    at, value = at[apart], value[apart]
    cut = lowest + rise
    inside = np.flatnonzero(value <= cut)
    first, last = int(inside[0]), int(inside[-1])
    ends = [
        None if beyond in (-1, len(at)) else float(np.interp(cut, value[[end, beyond]], at[[end, beyond]]))
        for end, beyond in ((first, first - 1), (last, last + 1))
    ]
    bottoms = [k for k in range(len(at)) if value[k] <= lowest + SEEN * rise and _is_valley(value, k, RIDGE * rise)]

    def shown(x: float) -> float:
        return float(np.exp(x)) if quantity.positive else x

    return Profile(
        name=quantity.name,
        estimate=shown(centre),
        grid=np.exp(at) if quantity.positive else at,
        objective=value,
        cutoff=cut,
        interval=(None if ends[0] is None else shown(ends[0]), None if ends[1] is None else shown(ends[1])),
        modes=tuple(shown(float(at[k])) for k in bottoms),
    )


def _is_valley(value: Array, k: int, height: float) -> bool:
    """Whether the way from point k to any lower one climbs by at least `height` first."""
    if value[max(k - 1, 0)] < value[k] or (value[min(k + 1, len(value) - 1)] <= value[k] and k + 1 < len(value)):
        return False
    for side in (value[:k][::-1], value[k + 1 :]):
        lower = np.flatnonzero(side < value[k])
        if len(lower) and side[: lower[0]].max(initial=value[k]) < value[k] + height:
            return False
    return True
