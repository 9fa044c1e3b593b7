"""Which runs a ladder trains, and which it adds once it has seen their losses. Pure: the same losses give the same runs.

A rung is a model. Each of its learning rates is one trunk for all D of the ladder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...analysis.tuning.optima import Curve, LadderTable, Optima, Optimum, find_optima
from ...models.config import ModelConfig
from ...models.ladder import LARGEST, SMALLEST, shape_for
from ...train.corpus.store import Corpus
from ...train.settings import peak_lr
from ..planning.plan import Plan, Trunk, make_plan
from ..spec import SpecError, SweepSpec
from .spec import TuningSettings

RUNGS = 4
WIDE = 8  # largest over smallest N of the rungs, where the grid's smaller half is narrower than that
FEWEST_STEPS = 100  # of a run whose batch was doubled
WIDE_STEP = 1.7  # between learning rates; half way across it is worth a run
RISEN = 4.0  # times a run's noise, by which the end of a curve lies above its lowest run without doubt
BATCH_LR_FACTORS = (0.5, 1.0, 2.0)  # around the best one, scaled as the square root of the batch
Setting = tuple[ModelConfig, int]  # a model and a batch
Rates = dict[Setting, tuple[float, ...]]  # learning rates of each


@dataclass(frozen=True)
class Design:
    """A ladder of a sweep."""

    sweep: SweepSpec
    corpus: Corpus
    tuning: TuningSettings
    models: tuple[ModelConfig, ...]
    tokens: tuple[int, ...]  # D, whole numbers of every batch that may be tried

    def start(self) -> Rates:
        """The learning rates around the published rule's, at the sweep's own batch."""
        return {
            (model, self.sweep.train.batch_tokens): tuple(
                sorted(peak_lr(model.n_non_embedding) * factor for factor in self.tuning.lr_factors)
            )
            for model in self.models
        }

    def plan(self, rates: Rates) -> Plan:
        """Their runs, evaluated on the validation side.

        Raises:
            SpecError: a run cannot be trained; one line for each reason.
        """
        trunks: list[Trunk] = []
        for (model, batch), lrs in rates.items():
            for lr in lrs:
                sweep = SweepSpec(
                    name=f"{self.sweep.name}-tuning",
                    shapes=[(model.n_layers, model.d_model)],
                    tokens=list(self.tokens),
                    seeds=list(self.tuning.seeds),
                    corpus=self.sweep.corpus,
                    train=self.sweep.train.model_copy(update={"lr": lr, "batch_tokens": batch}),
                )
                trunks += make_plan(sweep, self.corpus).trunks
        validated = tuple(
            Trunk(tuple(run.model_copy(update={"held_out": "validation"}) for run in trunk.runs)) for trunk in trunks
        )
        return Plan(validated, len(self.corpus.validation))

    def extended(self, rates: Rates, table: LadderTable) -> Rates:
        """The rates with those added that the losses ask for; the same where nothing is left to add."""
        optima = find_optima(table)
        wider = {setting: self._wider(setting, lrs, optima) for setting, lrs in rates.items()}
        if wider == rates and self.tuning.refine:
            base = self.sweep.train.batch_tokens
            wider |= {
                setting: self._finer(setting, lrs, optima) for setting, lrs in rates.items() if setting[1] == base
            }
        if wider != rates or not self.tuning.batch_factors:
            return wider
        for model in self.models:
            for batch in self._batches(model, {b for m, b in rates if m == model}, optima):
                wider[model, batch] = self._rates_at(model, batch, optima)
        return wider

    def _wider(self, setting: Setting, lrs: tuple[float, ...], optima: Optima) -> tuple[float, ...]:
        """One learning rate more towards an edge at which the best one of any D lies, up to `max_extensions`."""
        started = len(self.tuning.lr_factors if setting[1] == self.sweep.train.batch_tokens else BATCH_LR_FACTORS)
        added = {
            lr
            for curve, optimum in zip(optima.curves, optima.found, strict=True)
            if _is_of(optimum, setting)
            for lr in _beyond(curve, optimum, optima.noise)
        }
        room = self.tuning.max_extensions - (len(lrs) - started)
        return tuple(sorted({*lrs, *sorted(added - set(lrs))[: max(0, room)]}))

    def _finer(self, setting: Setting, lrs: tuple[float, ...], optima: Optima) -> tuple[float, ...]:
        """With those half way from the best one of any D to its neighbours, where these are further than WIDE_STEP."""
        added = set[float]()
        for curve, optimum in zip(optima.curves, optima.found, strict=True):
            if _is_of(optimum, setting) and optimum.status == "interior":
                below, best, above = (2 ** curve.log2_lr_X[curve.best - 1 : curve.best + 2]).tolist()
                added |= {
                    math.sqrt(best * other)
                    for other in (below, above)
                    if max(best, other) > WIDE_STEP * min(best, other)
                }
        return tuple(sorted({*lrs, *added}))

    def _batches(self, model: ModelConfig, tried: set[int], optima: Optima) -> list[int]:
        """Batches to try next: at first those of `batch_factors`, then one more where the best of any D is at an edge."""
        base = self.sweep.train.batch_tokens
        if tried == {base}:
            return [round(base * factor) for factor in self.tuning.batch_factors]
        if len(tried) - 1 - len(self.tuning.batch_factors) >= self.tuning.max_extensions:
            return []
        ends = []
        for d in self.tokens:
            inside = [o for o in optima.found if model.n_non_embedding == o.N and d == o.D and o.status == "interior"]
            best = min(inside, key=lambda optimum: optimum.loss, default=None)
            if best is not None and best.batch == min(tried):
                ends.append(min(tried) // 2)
            elif best is not None and best.batch == max(tried):
                ends.append(max(tried) * 2)
        context = self.sweep.train.context
        fits = [b for b in ends if b % context == 0 and self.tokens[0] // b >= FEWEST_STEPS]
        return sorted(set(fits))[:1]

    def _rates_at(self, model: ModelConfig, batch: int, optima: Optima) -> tuple[float, ...]:
        """Three learning rates of a new batch: around the nearest batch's best one, scaled by the square root of the batch."""
        known = [optimum for optimum in optima.found if model.n_non_embedding == optimum.N]
        nearest = min({optimum.batch for optimum in known}, key=lambda b: abs(math.log(b / batch)))
        logs = [optimum.log2_lr for optimum in known if optimum.batch == nearest]
        best = 2 ** (sum(logs) / len(logs)) * math.sqrt(batch / nearest)
        return tuple(best * factor for factor in BATCH_LR_FACTORS)


def design(sweep: SweepSpec, grid: Plan, corpus: Corpus) -> Design:
    """The ladder of a sweep's [tuning] table (or of its defaults), its rungs and D filled in from the grid's.

    Raises:
        SpecError: there is nothing to tune, or nothing to tune on; one line for each reason.
    """
    tuning, settings, problems = sweep.tuning or TuningSettings(), sweep.train, []
    if settings.lr != "auto":
        problems.append(
            f'{sweep.name}: train.lr = {settings.lr:g} is not tuned: give train.lr = "auto", or leave tuning out'
        )
    if not len(corpus.validation):
        problems.append(
            f"{sweep.name}: corpus {sweep.corpus.name} has no validation side to tune on: set corpus.validation_fraction (0.03)"
        )
    models = _models(tuning, grid)
    if len({model.n_non_embedding for model in models}) < len(models):
        problems.append(f"{sweep.name}: tuning.params: two values fall on one shape; give them further apart")
    if problems:
        raise SpecError("\n".join(problems))
    largest = settings.batch_tokens
    if tuning.batch_factors:  # so that a D stays the same whatever the batch
        largest *= round(max(1.0, *tuning.batch_factors)) * 2**tuning.max_extensions
        smallest = min(tuning.tokens or [run.tokens for run in grid.runs])
        while largest > settings.batch_tokens and smallest // largest < FEWEST_STEPS:
            largest //= 2
    tokens = tuning.tokens or _lower_half(sorted({run.tokens for run in grid.runs}))
    return Design(sweep, corpus, tuning, models, tuple(sorted({d // largest * largest for d in tokens})))


def _models(tuning: TuningSettings, grid: Plan) -> tuple[ModelConfig, ...]:
    """Those asked for, else four spread evenly in log N over the grid's smaller half (at least a factor of WIDE of it)."""
    of_grid = sorted({run.model for run in grid.runs}, key=lambda model: model.n_non_embedding)
    if tuning.params:
        return tuple(_model(n, of_grid[0]) for n in sorted(tuning.params))
    first, last = of_grid[0].n_non_embedding, of_grid[-1].n_non_embedding
    top = max(math.sqrt(first * last), min(last, WIDE * first))
    bottom = max(min(first, top / WIDE), SMALLEST)
    targets = np.geomspace(bottom, min(max(top, WIDE * bottom), LARGEST), RUNGS)
    nearest = [min(of_grid, key=lambda m: abs(math.log(m.n_non_embedding / n))) for n in targets.tolist()]
    if len(set(nearest)) == RUNGS:  # rungs that are rows of the grid themselves say most about it
        return tuple(nearest)
    return tuple(dict.fromkeys(_model(round(n), of_grid[0]) for n in targets.tolist()))


def _model(n: int, like: ModelConfig) -> ModelConfig:
    """The ladder's shape for N, in all else as the grid's models.

    Raises:
        SpecError: N is outside the ladder of shapes.
    """
    try:
        shape = ModelConfig.from_shape(*shape_for(n), like.vocab_size, like.context)
    except ValueError as error:
        raise SpecError(f"tuning.params: {error}") from None
    return shape.model_copy(update={"qk_norm": like.qk_norm})


def _lower_half(columns: Sequence[int]) -> list[int]:
    """The smallest D, and the largest one up to the middle of the range in log D (the second smallest at least)."""
    middle = math.sqrt(columns[0] * columns[-1])
    return [columns[0], max([*columns[1:2], *(d for d in columns[1:] if d <= middle)], default=columns[0])]


def _is_of(optimum: Optimum, setting: Setting) -> bool:
    return setting[0].n_non_embedding == optimum.N and optimum.batch == setting[1]


def _beyond(curve: Curve, optimum: Optimum, noise: float) -> list[float]:
    """Learning rates that would bracket the optimum: a step of 2x beyond the edge, or half way to one that diverged.

    A curve that is flat within the noise goes on wherever its end has not risen above it; where both have, its best
    learning rate is bracketed, and two beside it tell more.
    """
    lrs, losses, best = (2**curve.log2_lr_X).tolist(), curve.loss_X, curve.best
    down, up = lrs[0] / 2, lrs[-1] * 2
    if optimum.status == "low edge":
        return [down]
    if optimum.status == "high edge":
        diverged = [lr for lr, loss in zip(lrs, losses, strict=True) if math.isinf(loss) and lr > lrs[best]]
        return [math.sqrt(lrs[best] * diverged[0])] if diverged else [up] if up < 1 else []
    if optimum.status == "flat":
        open_ends = [lr for lr, end in ((down, 0), (up, -1)) if losses[end] - losses[best] < RISEN * noise and lr < 1]
        return open_ends or [math.sqrt(lrs[best] * lrs[beside]) for beside in (best - 1, best + 1)]
    return []
