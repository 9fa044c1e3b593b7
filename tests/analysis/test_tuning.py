"""Ladders of which the optima are known: found without bias, with errors that are right, and refused where not bracketed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from sixnd.analysis.report.interactive import interactive
from sixnd.analysis.report.tuning import rungs_table, tuning_figures
from sixnd.analysis.tuning import local_parabola
from sixnd.analysis.tuning.ladder import Ladder, climb
from sixnd.analysis.tuning.local_parabola import LocalParabola
from sixnd.analysis.tuning.optima import LadderTable, find_optima
from sixnd.analysis.tuning.rule import fit_power_law

RUNGS, TOKENS = (25e3, 55e3, 100e3, 220e3), (0.5e6, 1e6)
C, X, Y = 0.02, 0.3, 0.2  # lr = C (N / 1e5)^-X (D / 1e6)^Y
NOISE, CURVATURE = 0.004, 0.05  # nats, nats per octave²
Row = dict[str, float | None]


def true_lr(n: float, d: float) -> float:
    return C * (n / 1e5) ** -X * (d / 1e6) ** Y


def row(n: float, d: float, batch: float, lr: float, loss: float | None) -> Row:
    return {"N": n, "D": d, "batch": batch, "lr": lr, "loss": loss}


def rows(rng: np.random.Generator, noise: float = NOISE, skew: float = 0.0, shared: float = 0.0) -> Iterator[Row]:
    """Five learning rates 2x apart, their middle up to half an octave off; `shared` is noise common to the D of a trunk."""
    for n in RUNGS:
        centre = true_lr(n, 0.7e6) * 2 ** rng.uniform(-0.5, 0.5)
        for step in range(-2, 3):
            lr, common = centre * 2.0**step, rng.normal(0, shared)
            for d in TOKENS:
                x = np.log2(lr / true_lr(n, d))
                yield row(n, d, 2048, lr, 4.0 + CURVATURE * x**2 + skew * x**3 + common + rng.normal(0, noise))


def ladders(n: int, **settings: float) -> list[Ladder]:
    return [climb(LadderTable.of(rows(np.random.default_rng(seed), **settings))) for seed in range(n)]


def scores(found: Sequence[Ladder]) -> np.ndarray:
    """Errors over standard errors of every bracketed optimum."""
    return np.array(
        [
            (cell.log2_lr - np.log2(true_lr(cell.N, cell.D))) / cell.se
            for ladder in found
            for cell in ladder.cells
            if cell.status == "interior"
        ]
    )


def test_without_noise_everything_is_exact() -> None:
    ladder = climb(LadderTable.of(rows(np.random.default_rng(0), noise=0.0)))
    assert ladder.lr is not None and ladder.lr.fitted == ("N", "D") and not ladder.notes
    assert ladder.lr.exponent("N") == pytest.approx(-X, abs=1e-6)
    assert ladder.lr.exponent("D") == pytest.approx(Y, abs=1e-6)
    assert ladder.lr.value(3e6, 7e7) == pytest.approx(true_lr(3e6, 7e7), rel=1e-4)
    assert ladder.lr.coefficient == pytest.approx(C * 1e5**X * 1e6**-Y, rel=1e-4)
    assert ladder.lr.left_out_octaves == pytest.approx(0, abs=1e-6)
    for cell in ladder.cells:
        assert cell.curvature == pytest.approx(CURVATURE) and cell.loss == pytest.approx(4.0)


def test_optima_are_unbiased_and_their_errors_are_right() -> None:
    z = scores(ladders(150))
    assert abs(z.mean()) < 0.1
    assert 0.85 < z.std() < 1.2
    assert 0.9 < (np.abs(z) < 1.96).mean() <= 0.98


def test_a_cliff_above_the_optimum_does_not_pull_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the loss of a model that begins to diverge: 0.5 nats/octave² more from 0.7 octaves above its optimum on."""

    def worst() -> float:
        shifts = []
        for centre in np.linspace(-0.5, 0.5, 21):
            x = centre + np.array([-2, -1, -0.5, 0, 0.5, 1, 2])
            found = LocalParabola.through(x, CURVATURE * x**2 + 0.5 * np.clip(x - 0.7, 0, None) ** 2)
            assert found is not None
            shifts.append(abs(found.vertex))
        return max(shifts)

    assert worst() < 0.15
    monkeypatch.setattr(local_parabola, "RISE", np.inf)
    assert worst() > 0.3


def test_the_noise_is_that_of_the_runs() -> None:
    found = [ladder.optima.noise for ladder in ladders(150)]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(NOISE, rel=0.1)


@pytest.mark.parametrize("shared", [0.0, 0.004])
def test_exponents_are_unbiased_and_their_errors_are_right(shared: float) -> None:
    """Also where the runs of a trunk share their noise, which errors taken as independent would get wrong."""
    noise = NOISE if not shared else 0.002
    found = [ladder.lr for ladder in ladders(200, noise=noise, shared=shared)]
    for name, truth in (("N", -X), ("D", Y)):
        z = np.array([(law.exponent(name) - truth) / (law.exponent_se(name) or np.nan) for law in found if law])
        assert abs(z.mean()) < 0.25
        assert 0.7 < z.std() < 1.25
    at = np.array([np.log2(law.value(1e6, 4e6) / true_lr(1e6, 4e6)) / law.se_octaves(1e6, 4e6) for law in found if law])
    assert 0.7 < at.std() < 1.25


def test_a_curve_steeper_above_its_optimum_moves_it_little() -> None:
    """A cubic term of 0.005 nats per octave³, where the square is 0.05: twice that of the curve in LOG.md."""
    off = [c.log2_lr - np.log2(true_lr(c.N, c.D)) for ladder in ladders(60, skew=0.005) for c in ladder.cells]
    assert abs(np.mean(off)) < 0.15
    assert abs(np.mean(off)) * CURVATURE < 0.005  # what it costs, in nats per octave at most


@pytest.mark.parametrize(("shift", "status"), [(4.0, "low edge"), (0.25, "high edge")])
def test_an_optimum_at_an_edge_is_not_used(shift: float, status: str) -> None:
    table = list(rows(np.random.default_rng(1)))
    for each in table:
        if each["N"] == RUNGS[-1]:
            each["lr"] = (each["lr"] or 0) * shift
            x = np.log2((each["lr"] or 0) / true_lr(each["N"] or 0, each["D"] or 0))
            each["loss"] = 4.0 + CURVATURE * float(x) ** 2
    ladder = climb(LadderTable.of(table))
    assert [cell.status for cell in ladder.cells if RUNGS[-1] == cell.N] == [status] * 2
    assert ladder.lr is not None and ladder.lr.centre_N < 60e3
    assert sum("not bracketed" in note for note in ladder.notes) == 2
    assert any("3 bracketed rungs" in note for note in ladder.notes)


def test_divergence_bounds_the_optimum_from_above() -> None:
    """A run that diverged closes the bracket; where the loss still falls towards it, the optimum is not known."""
    lrs = 1e-3 * 2.0 ** np.arange(5)

    def status(losses: Sequence[float | None]) -> str:
        table = LadderTable.of([row(1e5, 1e6, 2048, lr, loss) for lr, loss in zip(lrs, losses, strict=True)])
        return find_optima(table).found[0].status

    assert status([4.20, 4.05, 4.00, 4.05, None]) == "interior"
    assert status([4.20, 4.04, 4.00, 4.001, None]) == "interior"
    assert status([4.40, 4.20, 4.10, 4.00, None]) == "high edge"
    assert status([4.00, None, None, None, None]) == "low edge"
    assert status([None] * 5) == "low edge"
    assert status([4.0, 4.0, 4.0, 4.0, 4.0]) in ("low edge", "flat")


def test_a_seed_that_diverged_counts_for_its_learning_rate() -> None:
    table = LadderTable.of([row(1e5, 1e6, 2048, 1e-3, 4.0), row(1e5, 1e6, 2048, 1e-3, None)])
    assert find_optima(table).curves[0].loss_X.tolist() == [np.inf]


def test_what_cannot_be_fitted_is_said() -> None:
    one_d = climb(LadderTable.of(r for r in rows(np.random.default_rng(2)) if r["D"] == TOKENS[0]))
    assert one_d.lr is not None and one_d.lr.fitted == ("N",) and one_d.lr.exponent_se("D") is None
    assert one_d.lr.value(1e5, 1e6) == one_d.lr.value(1e5, 1e9)
    assert any("exponent of D" in note for note in one_d.notes)
    one_n = climb(LadderTable.of(r for r in rows(np.random.default_rng(2)) if r["N"] == RUNGS[0]))
    assert one_n.lr is not None and "N" not in one_n.lr.fitted
    assert any("exponent of N" in note for note in one_n.notes)
    empty = climb(LadderTable.of([row(1e5, 1e6, 2048, 1e-3, 4.0)]))
    assert empty.lr is None and any("no rule" in note for note in empty.notes)
    in_proportion = fit_power_law(
        np.array([1e5, 2e5, 4e5, 8e5]), np.array([1e6, 2e6, 4e6, 8e6]), np.zeros(4), np.full(4, 0.1)
    )
    assert in_proportion.fitted == ("N",)


def test_scatter_beyond_the_errors_widens_them() -> None:
    n, d = np.repeat(RUNGS, 2), np.tile(TOKENS, 4)
    y = -X * np.log2(n / 1e5) + Y * np.log2(d / 1e6)
    scatter = np.array([1, -1, -1, 1, 1, -1, -1, 1]) * 0.3
    calm, wild = (fit_power_law(n, d, y + off, np.full(8, 0.05)) for off in (0 * scatter, scatter))
    assert calm.chi2 < 1e-9 and wild.chi2 / wild.dof > 10
    assert (wild.exponent_se("N") or 0) > 3 * (calm.exponent_se("N") or 0)
    assert (wild.left_out_octaves or 0) > 0.2


def test_the_excess_of_another_learning_rate() -> None:
    ladder = climb(LadderTable.of(rows(np.random.default_rng(3), noise=1e-6)))
    assert ladder.excess(1e5, 1e6, 2 * true_lr(1e5, 1e6)) == pytest.approx(CURVATURE, rel=0.01)
    assert ladder.excess(1e5, 1e6, true_lr(1e5, 1e6) / 4) == pytest.approx(4 * CURVATURE, rel=0.01)
    assert ladder.excess(1e5, 1e6, true_lr(1e5, 1e6)) == pytest.approx(0, abs=1e-6)


def test_batches_are_compared_each_at_its_own_learning_rate() -> None:
    """B = 2048 (D / 1e6)^0.5, and the best learning rate grows as the square root of the batch."""
    table = []
    for n in RUNGS:
        for d in TOKENS:
            for batch in (1024, 2048, 4096):
                best = true_lr(n, d) * (batch / 2048) ** 0.5
                off = np.log2(batch / (2048 * (d / 1e6) ** 0.5))
                table += [
                    row(n, d, batch, best * 2.0**x, 4.0 + 0.02 * off**2 + CURVATURE * x**2)
                    for x in np.arange(-2, 3) + 0.15
                ]
    ladder = climb(LadderTable.of(table))
    assert ladder.batch is not None and ladder.lr is not None
    assert ladder.batch.exponent("D") == pytest.approx(0.5, abs=1e-3)
    assert ladder.batch.value(1e5, 1e6) == pytest.approx(2048, rel=1e-3)
    assert ladder.lr.value(1e5, 1e6, 2048) == pytest.approx(C, rel=1e-3)
    assert ladder.lr.fitted == ("N", "D", "B") and ladder.lr.exponents == pytest.approx((-X, Y, 0.5), abs=1e-3)
    assert {row[-1][0] for row in rungs_table(ladder).rows} == {"0.0000"}, "the rule at each rung's own batch"
    lrs = next(figure for figure in tuning_figures(ladder) if figure.id == "rule-lr")
    assert "at a batch of 2.0k" in lrs.title


def test_a_batch_at_an_edge_gives_no_batch_rule() -> None:
    table = [
        row(n, d, batch, true_lr(n, d) * 2.0**step, 4.0 + batch / 1e5 + CURVATURE * step**2)
        for n in RUNGS for d in TOKENS for batch in (1024, 2048, 4096) for step in range(-2, 3)
    ]  # fmt: skip
    ladder = climb(LadderTable.of(table))
    assert ladder.batch is None and ladder.lr is not None
    assert {cell.batch for cell in ladder.cells} == {1024}
    assert any("best batch is not bracketed" in note for note in ladder.notes)


def test_a_parabola_needs_three_places() -> None:
    assert LocalParabola.through(np.array([0.0, 1.0]), np.array([1.0, 2.0])) is None
    assert LocalParabola.through(np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.1, 2.0, 2.1])) is None


def test_every_point_of_the_page_has_its_colour() -> None:
    for figure in tuning_figures(ladders(1)[0]):
        marks = [mark for mark in json.loads(interactive(figure.chart).to_json())["data"] if mark["mode"] == "markers"]
        assert marks
        for mark in marks:
            assert len(mark["marker"]["color"]) == len(mark["x"])
