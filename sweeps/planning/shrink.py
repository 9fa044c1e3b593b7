"""A grid cut down to a budget: the cells that tell least for what they cost go first. Called through `own_process`: it imports scipy.

Information is the log determinant of the Fisher matrix of the guessed law (D-optimal: Atkinson, Donev & Tobias 2007), which a
cell lowers by -log(1 - k g^T M^-1 g / sigma^2), k its seeds; its cost is what it adds to its trunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...models.config import ModelConfig
from ..spec import Budget, SpecError
from .forecast import RUN_S, Forecast, Line, forecast, simulate
from .plan import Plan
from .worth import Guess

LEAST_N, LEAST_D = 3, 3
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Purse:
    """The budget, and what a plan costs on this device."""

    budget: Budget
    tokens_per_s: Mapping[ModelConfig, float]
    slots: int
    compiled: bool
    most_stacked: int = 1

    def forecast(self, plan: Plan) -> Forecast:
        return forecast(plan, plan.seconds(self.tokens_per_s), self.slots, self.compiled, self.most_stacked)

    def allows(self, plan: Plan) -> bool:
        """Whether the plan, trained from nothing, costs no more than the budget."""
        hours, flops = self.budget.hours, self.budget.flops
        if flops is not None and plan.trained_flops > flops:
            return False
        return hours is None or self.forecast(plan).makespan_s <= 3600 * hours


@dataclass(frozen=True)
class _Cell:
    keys: tuple[str, ...]  # one a seed
    model: ModelConfig
    tokens: int
    evaluation_s: float


def shrink(name: str, plan: Plan, purse: Purse, guess: Guess) -> frozenset[str]:
    """Keys of the runs that stay: whole cells, all seeds of each, at least 3 N and 3 D.

    Raises:
        SpecError: no grid of 3 N and 3 D fits the budget.
        FitError: the guessed law has no optimum.
    """
    if purse.allows(plan):
        return frozenset(run.key for run in plan.runs)
    cells = _Cells(plan, purse, guess)
    kept = np.ones(len(cells.cells), dtype=bool)
    while not cells.may_fit(kept) or not purse.allows(plan.only(cells.keys(kept))):
        droppable = cells.droppable(kept)
        if not len(droppable):
            left = plan.only(cells.keys(kept))
            raise SpecError(
                f"{name}: budget: no grid of at least {LEAST_N} N and {LEAST_D} D fits: what is left of this one takes"
                f" {purse.forecast(left).makespan_s / 3600:.2g} h and {left.trained_flops:.2g} FLOPs; give more, or smaller cells"
            )
        price = cells.prices(kept)[droppable]
        kept[droppable[np.argmin(cells.losses(kept)[droppable] / price)]] = False
    for cell in cells.by_gain(kept):
        kept[cell] = True
        if not cells.may_fit(kept) or not purse.allows(plan.only(cells.keys(kept))):
            kept[cell] = False
    return cells.keys(kept)


class _Cells:
    """The cells of a plan as arrays: what each tells, and what it costs beside others of its trunk."""

    def __init__(self, plan: Plan, purse: Purse, guess: Guess) -> None:
        self.purse, self.seeds = purse, len({run.seed for run in plan.runs})
        seconds = plan.evaluation_seconds(purse.tokens_per_s)
        groups: dict[tuple[ModelConfig, int], list[str]] = {}
        for trunk in plan.trunks:
            for run, key in zip(trunk.runs, trunk.keys, strict=True):
                groups.setdefault((run.model, run.tokens), []).append(key)
        self.cells = [_Cell(tuple(keys), *cell, seconds[keys[0]] + RUN_S) for cell, keys in groups.items()]
        first = plan.runs[0]
        self.own_share = 1 - first.branch_step / first.n_steps if first.schedule.shares_trunk else 1.0
        self.N = np.array([cell.model.n_total for cell in self.cells], dtype=np.float64)
        self.D = np.array([cell.tokens for cell in self.cells], dtype=np.float64)
        self.models = list(dict.fromkeys(cell.model for cell in self.cells))
        number = {model: i for i, model in enumerate(self.models)}
        self.row = np.array([number[cell.model] for cell in self.cells])
        order = np.argsort(self.D, kind="stable")
        self.by_length = [order[self.row[order] == i] for i in range(len(self.models))]
        self.per_token = np.array([1 / purse.tokens_per_s[cell.model] for cell in self.cells])
        self.fixed = np.array([cell.evaluation_s for cell in self.cells])
        from ...analysis.design.information import PRIOR_SD, effective_variance, local  # scipy

        self.prior: Array = np.diag(PRIOR_SD**-2)
        at = local(np.array([guess.params]), self.N, self.D)
        self.gradient: Array = at.gradient(self.N, self.D)[0] * np.sqrt(
            self.seeds / effective_variance(guess.noise, 1e-3)
        )

    def keys(self, kept: NDArray[np.bool_]) -> frozenset[str]:
        return frozenset(key for cell, keep in zip(self.cells, kept, strict=True) if keep for key in cell.keys)

    def may_fit(self, kept: NDArray[np.bool_]) -> bool:
        """The budget by the closed form of a trunk's cost, within a step of the exact one: cheap enough for every cut."""
        budget, slack = self.purse.budget, 1.01
        tokens = self._tokens(kept)
        if budget.flops is not None and 6 * self.seeds * float((self.N * tokens).sum()) > slack * budget.flops:
            return False
        if budget.hours is None:
            return True
        lines = [line for row in range(len(self.models)) for line in self._lines(row, kept)]
        return simulate(lines, self.purse.slots, self.purse.compiled).makespan_s <= slack * 3600 * budget.hours

    def droppable(self, kept: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Cells without which 3 N and 3 D remain; where single trunks are too long for the hours, only theirs."""
        rows, columns = np.unique(self.N, return_inverse=True)[1], np.unique(self.D, return_inverse=True)[1]
        of_row, of_column = np.bincount(rows[kept], minlength=1), np.bincount(columns[kept], minlength=1)
        in_row, in_column = _looked_up(of_row, rows), _looked_up(of_column, columns)
        allowed = kept & ((in_row > 1) | ((of_row > 0).sum() > LEAST_N))
        allowed &= (in_column > 1) | ((of_column > 0).sum() > LEAST_D)
        if self.purse.budget.hours is not None:
            too_long = self._rows(kept)[self.row] > 3600 * self.purse.budget.hours
            if (allowed & too_long).any():
                allowed &= too_long
        return np.flatnonzero(allowed)

    def losses(self, kept: NDArray[np.bool_]) -> Array:
        """What each kept cell tells that the others do not."""
        return np.asarray(-np.log1p(-np.minimum(self._leverage(kept), 1 - 1e-12)))

    def by_gain(self, kept: NDArray[np.bool_]) -> Iterator[int]:
        """Cells that were dropped, those that would tell most per cost first."""
        gain = np.log1p(self._leverage(kept)) / self._own_price()
        dropped = np.flatnonzero(~kept)
        return iter(dropped[np.argsort(-gain[dropped], kind="stable")].tolist())

    def prices(self, kept: NDArray[np.bool_]) -> Array:
        """What the budget gains without each cell: its cooldown, and of a row's longest also the trunk beyond the next."""
        price = self._own_price()
        unit = self.per_token if self.purse.budget.hours is not None else self.N
        for row in range(len(self.models)):
            inside = np.flatnonzero(kept & (self.row == row))
            if len(inside):
                by_length = inside[np.argsort(self.D[inside])]
                last = by_length[-1]
                before = self.D[by_length[-2]] if len(by_length) > 1 else 0.0
                price[last] += (1 - self.own_share) * unit[last] * (self.D[last] - before)
        return price

    def _own_price(self) -> Array:
        if self.purse.budget.hours is not None:
            return np.asarray(self.own_share * self.D * self.per_token + self.fixed)
        return np.asarray(self.own_share * self.D * self.N)

    def _leverage(self, kept: NDArray[np.bool_]) -> Array:
        inside = self.gradient[kept]
        inverse = np.linalg.inv(inside.T @ inside + self.prior)
        return np.asarray(np.einsum("ni,ij,nj->n", self.gradient, inverse, self.gradient))

    def _tokens(self, kept: NDArray[np.bool_]) -> Array:
        """Tokens that each cell trains, a row's longest with the trunk."""
        tokens = np.where(kept, self.own_share * self.D, 0.0)
        longest = np.zeros(len(self.models))
        np.maximum.at(longest, self.row[kept], self.D[kept])
        is_longest = kept & (longest[self.row] == self.D)
        return np.asarray(tokens + np.where(is_longest, (1 - self.own_share) * self.D, 0.0))

    def _lines(self, row: int, kept: NDArray[np.bool_]) -> Iterator[Line]:
        """Of a model's trunks, one a seed, stacked as far as they are."""
        inside = self.by_length[row][kept[self.by_length[row]]]
        each_s = self.per_token[inside] * self.D[inside]
        stretches = (1 - self.own_share) * np.diff(each_s, prepend=0.0)
        rests = self.own_share * each_s + self.fixed[inside]
        model, most = self.models[row], self.purse.most_stacked
        for first in range(0, self.seeds if len(inside) else 0, most):
            n = min(most, self.seeds - first)
            yield Line(
                (model.d_model, model.n_heads), list(zip((n * stretches).tolist(), (n * rests).tolist(), strict=True))
            )

    def _rows(self, kept: NDArray[np.bool_]) -> Array:
        """Seconds of each model's trunk."""
        each = self._tokens(kept) * self.per_token + np.where(kept, self.fixed, 0.0)
        return np.bincount(self.row, weights=each, minlength=len(self.models)).astype(np.float64)


def _looked_up(counts: NDArray[np.intp], index: NDArray[np.intp]) -> NDArray[np.intp]:
    padded = np.zeros(int(index.max()) + 1, dtype=np.intp)
    padded[: len(counts)] = counts
    return padded[index]
