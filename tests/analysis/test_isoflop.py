from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sixnd.analysis.laws import FitError
from sixnd.analysis.methods.isoflop import budgets, isoflop, parabola_bias

Array = npt.NDArray[np.float64]
A, B, E, ALPHA, BETA = 400.0, 1500.0, 1.8, 0.3, 0.45
BUDGETS = np.geomspace(1e18, 1e21, 5)


def truth(N: Array, D: Array) -> Array:
    return A / N**ALPHA + B / D**BETA + E


def optimum(C: Array) -> Array:
    return np.asarray((ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (C / 6) ** (BETA / (ALPHA + BETA)))


def grid(half_width: float, *, off: float = 0.0, drift: float = 0.0, sizes: int = 9) -> tuple[Array, Array]:
    """Runs at five budgets: N within a factor half_width of a centre, off the optimum by e^off, the more so by drift per budget."""
    shift = off + drift * np.arange(len(BUDGETS))
    N = np.exp(np.log(optimum(BUDGETS)) + shift)[:, None] * np.geomspace(1 / half_width, half_width, sizes)
    return N.ravel(), (BUDGETS[:, None] / (6 * N)).ravel()


def test_narrow_centred_grids_give_the_exponent_of_the_law() -> None:
    N, D = grid(2.0)
    found = isoflop(N, D, truth(N, D), bootstrap=0)
    assert found.a == pytest.approx(BETA / (ALPHA + BETA), abs=1e-4)
    assert np.array([p.N for p in found.parabolas]) == pytest.approx(optimum(BUDGETS), rel=0.02)
    assert np.array([p.D * p.N * 6 for p in found.parabolas]) == pytest.approx(BUDGETS)
    assert found.parabolas[0].curve(np.array([found.parabolas[0].N]))[0] == pytest.approx(found.parabolas[0].loss)
    assert found.a_ci95 is None


def test_wide_and_drifting_grids_are_biased_and_the_bias_is_found() -> None:
    N, D = grid(30.0, drift=-0.5)
    found = isoflop(N, D, truth(N, D), width=1e9, bootstrap=0)
    bias = parabola_bias(found, N, D, truth)
    law = BETA / (ALPHA + BETA)
    assert abs(found.a - law) > 0.01  # the effect that arXiv 2603.22339 describes
    assert bias.a_law == pytest.approx(law, abs=1e-6)
    assert found.a - bias.a == pytest.approx(law, abs=1e-6)
    vertices = np.log([p.N for p in found.parabolas])
    assert vertices - bias.log_N == pytest.approx(
        np.log([optimum(np.array([p.C]))[0] for p in found.parabolas]), abs=1e-5
    )


def test_a_centred_wide_grid_shifts_the_vertices_but_not_the_exponent() -> None:
    N, D = grid(20.0)
    found = isoflop(N, D, truth(N, D), width=1e9, bootstrap=0)
    bias = parabola_bias(found, N, D, truth)
    assert np.abs(bias.log_N).min() > 0.05
    assert found.a == pytest.approx(BETA / (ALPHA + BETA), abs=0.01)


def test_the_default_width_sees_only_runs_near_the_lowest() -> None:
    N, D = grid(30.0)
    found = isoflop(N, D, truth(N, D), bootstrap=0)
    for parabola in found.parabolas:
        assert np.ptp(np.log(N[parabola.rows])) <= 2 * np.log(6.0) + 1e-9


def test_the_interval_covers_and_is_repeatable() -> None:
    N, D = grid(3.0)
    clean, rng = truth(N, D), np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        found = isoflop(N, D, clean * np.exp(0.002 * rng.standard_normal(len(N))), bootstrap=300)
        bias = parabola_bias(found, N, D, truth)
        assert found.a_ci95 is not None
        hits += found.a_ci95[0] - bias.a <= BETA / (ALPHA + BETA) <= found.a_ci95[1] - bias.a
    assert 88 <= hits <= 99
    noisy = clean * np.exp(0.002 * rng.standard_normal(len(N)))
    assert isoflop(N, D, noisy, seed=3).a_ci95 == isoflop(N, D, noisy, seed=3).a_ci95


def test_budgets_without_an_inner_optimum_are_set_aside_by_name() -> None:
    N, D = grid(3.0)
    far = N > 0
    far[:9] = False
    N = np.where(far, N, N / 100)
    D = np.where(far, D, D * 100)
    found = isoflop(N, D, truth(N, D), bootstrap=0)
    assert len(found.parabolas) == 4
    assert found.set_aside[0].startswith("budget 1e+18 FLOPs: no optimum inside its sizes")


def test_runs_of_nearly_one_budget_are_grouped_and_a_continuum_is_not() -> None:
    C = np.array([1e18, 1.03e18, 0.98e18, 1e19, 1.02e19])
    assert [sorted(rows.tolist()) for rows in budgets(C)] == [[0, 1, 2], [3, 4]]
    assert budgets(np.geomspace(1e18, 1e19, 60)) == []


def test_a_table_without_budgets_is_refused_in_one_line() -> None:
    N, D = np.geomspace(1e7, 1e9, 12), np.geomspace(1e9, 1e11, 12)
    with pytest.raises(FitError, match="IsoFLOP needs at least 2 budgets") as error:
        isoflop(N, D, truth(N, D))
    assert "\n" not in str(error.value)


def test_published_exponents_are_met(reference: Path) -> None:
    """Porian et al. 2024 (arXiv 2406.19146) find the optima by interpolation; parabolas come within .03 of each of their exponents."""
    runs = pd.read_csv(reference / "porian_isoflop.csv")
    published = pd.read_csv(reference / "porian_published_fits.csv").set_index("config")["a"]
    error = []
    for config, part in runs.groupby("config"):
        N, D, C, loss = (part[name].to_numpy(dtype=np.float64) for name in ("N", "D", "C", "loss"))
        error.append(isoflop(N, D, loss, C=C, bootstrap=0).a - published[config])
    assert len(error) == 15
    assert np.abs(error).max() < 0.03
    assert np.abs(error).mean() < 0.013
