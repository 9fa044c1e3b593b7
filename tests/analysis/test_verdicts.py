from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis import verdicts
from sixnd.analysis.fit import fit
from sixnd.analysis.laws import Array
from sixnd.analysis.tables.table import RunTable, read_table, table_of
from sixnd.analysis.verdicts.identification import two_modes

Simulated = Callable[..., RunTable]
NOBODY = np.empty(0)


def least_squares(table: RunTable) -> Callable[[Array], Array]:
    """A refit whose answer is known: alpha is minus the weighted slope of log L on log N, beta stays 0.3."""
    x, y = np.log(table.N), np.log(table.loss)

    def refit(weights: Array) -> Array:
        total = weights.sum(1)
        dx = x - ((weights @ x) / total)[:, None]
        slope = (weights * dx * y).sum(1) / (weights * dx * dx).sum(1)
        return np.column_stack([np.ones((len(weights), 3)), -slope, np.full(len(weights), 0.3)])

    return refit


def a_of(refit: Callable[[Array], Array], n: int) -> float:
    params = refit(np.ones((1, n)))[0]
    return float(params[4] / (params[3] + params[4]))


def test_multimodal_from_the_optima() -> None:
    a, n = np.array([0.50, 0.505, 0.58]), 100
    assert verdicts.multimodal(a, np.array([1.0, 1.001, 1.10]), n, NOBODY) is None  # the third one fits worse
    found = verdicts.multimodal(a, np.array([1.0, 1.001, 1.01]), n, NOBODY)
    assert found is not None and found.code == "multimodal" and "at a = 0.580 instead of 0.500" in found.message
    assert verdicts.multimodal(a, np.array([1.0, 1.001, 1.01]), 1000, NOBODY) is None  # many runs tell them apart
    assert verdicts.multimodal(a[:1], np.zeros(1), n, NOBODY) is None  # a perfect fit


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_two_modes_are_found(share: float) -> None:
    rng = np.random.default_rng(1)
    sample = np.where(rng.uniform(size=1000) < share, rng.normal(0.45, 0.02, 1000), rng.normal(0.57, 0.02, 1000))
    modes = two_modes(sample)
    assert modes == pytest.approx((0.45, 0.57, share), abs=0.04)
    found = verdicts.multimodal(np.array([0.57]), np.ones(1), 50, sample)
    assert found is not None and "two modes, near 0.4" in found.message


def test_one_mode_is_not_called_two() -> None:
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        shapes = (rng.normal(0.5, 0.03, 1000), rng.standard_t(3, 1000) * 0.03, rng.gamma(2.0, 0.03, 1000))
        alarms += sum(two_modes(sample) is not None for sample in (*shapes, rng.uniform(0.4, 0.6, 1000)))
    assert alarms <= 2  # of 240
    assert two_modes(np.full(1000, 0.5)) is None and two_modes(np.full(300, np.nan)) is None
    assert two_modes(np.repeat([0.500, 0.505], 500)) is None  # too near to matter
    assert two_modes(np.array([0.4, 0.6] * 50)) is None  # too few to tell


def test_outliers_say_what_a_is_without_them(simulated: Simulated) -> None:
    table = simulated(0.003)
    residuals = 0.003 * np.random.default_rng(0).standard_normal(30)
    assert verdicts.outlier(table.N, table.D, residuals) is None
    residuals[[3, 8]] = 0.1, -0.2
    found = verdicts.outlier(table.N, table.D, residuals)
    assert found is not None and found.message.startswith("2 runs lie") and "run 9 of the table" in found.message
    refit = least_squares(table)
    weights = np.ones(30)
    weights[[3, 8]] = 0
    params = refit(weights[None])[0]
    told = verdicts.outlier(table.N, table.D, residuals, 0.5, refit, lambda run: f"run <{run}>")
    assert told is not None and "the farthest is run <8>, -18.1%" in told.message
    assert told.message.endswith(f"without them a is {params[4] / (params[3] + params[4]):.3f} instead of 0.500")


def test_influential_run_by_name_and_by_cluster(simulated: Simulated) -> None:
    table = simulated(0.001)
    frame = table.frame.assign(name=[f"r{i}" for i in range(30)])
    frame.loc[0, "loss"] *= 2
    one = table_of(frame)
    refit = least_squares(one)
    a = a_of(refit, 30)
    found = verdicts.influential_run(one.N, one.D, a, refit, one.run_name, one.cluster)
    without = a_of(least_squares(table_of(frame.iloc[1:])), 29)
    assert found is not None and found.message.startswith("without run 1 of the table, r0 (N = 1e+07")
    assert f"a is {without:.3f} instead of {a:.3f}" in found.message
    # Copies of the run hide it from leaving out one row, not from leaving out one run.
    copied = table_of(pd.concat([frame, *[frame.iloc[:1]] * 5]))
    refit = least_squares(copied)
    a = a_of(refit, 35)
    assert verdicts.influential_run(copied.N, copied.D, a, refit) is None
    found = verdicts.influential_run(copied.N, copied.D, a, refit, copied.run_name, copied.cluster)
    assert (
        found is not None
        and "and the 5 rows that go with it" in found.message
        and f"a is {without:.3f}" in found.message
    )
    calm = least_squares(simulated(0.001))
    assert verdicts.influential_run(table.N, table.D, a_of(calm, 30), calm) is None
    big = np.ones(2000)
    assert verdicts.influential_run(big, big, 0.5, calm) is None  # 2,000 refits of 2,000 rows are not tried


def test_chinchilla_with_its_five_outliers_is_warned_of(reference: Path) -> None:
    fitted = fit(read_table(reference / "chinchilla_epoch.csv"), bootstrap=0)
    assert fitted.frontier.a == pytest.approx(0.565, abs=5e-4)
    assert {warning.code for warning in fitted.warnings} & {"outlier", "influential_run"}


def test_n_convention_lists_every_a() -> None:
    N = np.geomspace(1e6, 1e9, 5)
    conventions = {"N_total": N, "N_non_embedding": N * 0.5, "N_matmul": N * 0.9}
    found = verdicts.n_convention(conventions, lambda sizes: 0.5 - (0.1 if sizes[0] < 6e5 else 0.0))
    assert found is not None and found.code == "n_convention"
    assert found.message.endswith("0.500 by N_total, 0.400 by N_non_embedding, 0.500 by N_matmul")
    assert verdicts.n_convention(conventions, lambda sizes: 0.5 + 0.019 * (sizes[0] < 6e5)) is None
    assert verdicts.n_convention({"N_total": N}, lambda _: 0.5) is None


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, None),
        ({"lr": 1e-3}, "one lr at each (N, D) and no column lr_tuned"),
        ({"lr": 1e-3, "lr_tuned": True}, None),
        ({"tuned": [1, 1, 0, 0]}, "column tuned: 2 of 4 runs were not tuned"),
        (
            {"Learning_Rate": [1e-3, 2e-3, 1e-3, 1e-3]},
            "at 1 of 3 (N, D) runs of several Learning_Rate are fitted together",
        ),
    ],
)
def test_untuned_relies_on_what_the_table_says(columns: dict[str, object], says: str | None) -> None:
    N, D = np.array([1e6, 1e6, 1e6, 2e6]), np.array([1e8, 1e8, 2e8, 2e8])
    found = verdicts.untuned(pd.DataFrame({"N": N, "D": D, **columns}), N, D)
    assert (found is None) == (says is None)
    if found is not None and says is not None:
        assert found.code == "untuned" and says in found.message and "Porian" in found.message


def test_optimum_outside_the_grid() -> None:
    C = np.repeat([1e18, 1e19, 1e20], 4)
    centre = np.sqrt(C / 6 / 20)
    N = centre * np.tile([0.25, 0.5, 1, 2], 3)
    assert verdicts.optimum_outside_grid(N, C / 6 / N, lambda C: np.sqrt(C / 120)) is None
    found = verdicts.optimum_outside_grid(N, C / 6 / N, lambda C: 3 * np.sqrt(C / 120))
    assert found is not None and "at 3 of 3 budgets" in found.message and "at C = 1e+20 it is 2.74e+09" in found.message
    smallest = verdicts.optimum_outside_grid(N, C / 6 / N, lambda C: np.where(C < 2e18, 1e12, np.sqrt(C / 120)))
    assert smallest is None  # at the smallest budget alone it moves little
    assert verdicts.optimum_outside_grid(N, C / 6 / N, lambda C: C * np.nan) is None
    assert verdicts.optimum_outside_grid(N[::4], (C / 6 / N)[::4], lambda C: C) is None  # one N a budget: no range


def test_a_plain_grid_is_not_outside(simulated: Simulated) -> None:
    table = simulated(0.003, sizes=8, lengths=8)
    fitted = fit(table, bootstrap=0)
    assert verdicts.optimum_outside_grid(table.N, table.D, lambda C: fitted.optimal(C).N) is None


def test_verdicts_on_the_table_itself() -> None:
    assert verdicts.units(()) is None and verdicts.rows_set_aside(()) is None
    assert verdicts.units(("a", "b")) == verdicts.Verdict("units", "a; b")
    mixed = verdicts.mixed_runs(pd.DataFrame({"train_set": ["c4", "rpj"], "config": "one"}))
    assert mixed is not None and "2 different train_set" in mixed.message and "config" not in mixed.message
    assert verdicts.mixed_runs(pd.DataFrame({"corpus": ["x", "x"]})) is None
    far = verdicts.extrapolation("C", 1e24, 1e18, 1e21)
    assert (
        far is not None and "3.0 decades above" in far.message and verdicts.extrapolation("C", 1e20, 1e18, 1e21) is None
    )
    assert verdicts.few_runs(np.arange(9.0), np.arange(9.0)) and not verdicts.few_runs(np.arange(10.0), np.arange(10.0))


def test_fixed_tokens_per_parameter_is_not_separable() -> None:
    N = np.geomspace(1e7, 1e10, 12)
    found = verdicts.not_separable(N, 20 * N)
    assert found is not None and found.code == "alpha_beta_not_separable"
    assert verdicts.not_separable(N, 1e20 / N) is not None  # one budget
    assert verdicts.not_separable(N, np.tile([1e9, 1e10, 1e11], 4)) is None
