import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sixnd.analysis.budgets.datawall import (
    HIGH_QUALITY_TEXT,
    R_D_STAR,
    R_N_STAR,
    ComputeTrend,
    Stock,
    constrained_loss,
    data_wall,
    repeating,
    wall_compute,
)
from sixnd.analysis.budgets.frontier import optimal
from sixnd.analysis.laws import FitError

PARAMS = np.array([482.01, 2085.43, 1.81686, 0.34781, 0.36585])
SAMPLES = PARAMS * np.exp(0.02 * np.random.default_rng(0).standard_normal((200, 5)))
NONE = np.empty((0, 5))
# Muennighoff et al. 2023, appendix A: their own fit on C4.
C4 = np.array([np.exp(6.255414), np.exp(7.3049974), np.exp(0.6254804), 0.3526596, 0.3526596])


def written_out(params: np.ndarray, N: float, D: float, U: float) -> float:
    """Muennighoff et al. 2023, appendix A, term by term."""
    A, B, E, alpha, beta = params
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    unique_N, unique_D = min((U * G) ** (beta / alpha) * G, N), min(U, D)
    R_N, R_D = max(N / unique_N - 1, 0), max(D / unique_D - 1, 0)
    N_eff = unique_N + unique_N * R_N_STAR * (1 - np.exp(-R_N / R_N_STAR))
    D_eff = unique_D + unique_D * R_D_STAR * (1 - np.exp(-R_D / R_D_STAR))
    return float(A / N_eff**alpha + B / D_eff**beta + E)


def test_law_is_the_published_one() -> None:
    for N, D, U in ((1e8, 1e9, 1e10), (1e8, 2e11, 1e10), (3e10, 1e9, 1e9), (3e10, 1e11, 1e9)):
        assert constrained_loss(C4[None], np.array([N]), np.array([D]), U)[0, 0] == pytest.approx(
            written_out(C4, N, D, U), rel=1e-9
        )
    one = constrained_loss(PARAMS[None], np.array([1e9]), np.array([2e9]), 1e12)[0, 0]
    assert one == pytest.approx(482.01 / 1e9**0.34781 + 2085.43 / 2e9**0.36585 + 1.81686)


def test_wall_is_where_the_optimum_takes_the_whole_stock() -> None:
    C = wall_compute(PARAMS[None], 6e12)
    assert optimal(PARAMS, NONE, C).D[0] == pytest.approx(6e12)
    assert optimal(PARAMS, NONE, 1.01 * C).D[0] > 6e12


@pytest.mark.parametrize("times", [2.0, 30.0, 1000.0])
def test_repeating_is_the_best_split(times: float) -> None:
    U = 1e10
    C = float(wall_compute(PARAMS[None], U)[0]) * times
    found = repeating(PARAMS, NONE, U, np.array([C]))

    def at(log_epochs: float) -> float:
        D = U * np.exp(log_epochs)
        return written_out(PARAMS, C / (6 * D), D, U)

    best = minimize_scalar(at, bounds=(-1.0, np.log(times) + 1.0), method="bounded", options={"xatol": 1e-10})
    assert found.loss[0] == pytest.approx(best.fun, abs=1e-7)
    assert found.epochs[0] == pytest.approx(np.exp(best.x), rel=1e-3)
    assert 6 * found.N[0] * found.D[0] == pytest.approx(C)
    assert found.price[0] == pytest.approx(best.fun - optimal(PARAMS, NONE, np.array([C])).loss[0], abs=1e-7)


def test_within_the_wall_nothing_repeats() -> None:
    found = repeating(PARAMS, SAMPLES, 1e15, np.array([1e20, 1e22]))
    assert found.epochs == pytest.approx([1, 1]) and found.price == pytest.approx([0, 0])
    unlimited = optimal(PARAMS, NONE, found.C)
    assert np.allclose(found.D, unlimited.D, rtol=1e-9)
    assert found.epochs_ci95 == pytest.approx(np.ones((2, 2)))


def test_published_optimum_for_25_billion_tokens() -> None:
    """Their figure 1: at about 9.3e21 FLOPs 6.34e9 parameters and 9.7 epochs, where the law without a limit takes 8.67e9."""
    found = repeating(C4, NONE, 25e9, np.array([6 * 6.34e9 * 242e9]))
    assert found.epochs[0] == pytest.approx(9.7, rel=0.1) and found.N[0] == pytest.approx(6.34e9, rel=0.1)
    assert optimal(C4, NONE, found.C).N[0] == pytest.approx(8.67e9, rel=0.05)


def test_default_stock_and_its_wall() -> None:
    assert HIGH_QUALITY_TEXT.low == pytest.approx(6.13e12, rel=1e-3)
    assert HIGH_QUALITY_TEXT.high == pytest.approx(2.27e13, rel=2e-3)
    assert all(
        said in HIGH_QUALITY_TEXT.source for said in ("2211.04325", "4.6e+12", "1.33 tokens a word", "7%", "2022")
    )
    wall = data_wall(PARAMS, SAMPLES)
    assert 1.32e25 < wall.low.C < 1.34e25 and wall.high.C > 10 * wall.low.C
    assert wall.low.C_ci95 is not None and wall.low.C_ci95[0] < wall.low.C < wall.low.C_ci95[1]
    beyond = wall.low.repeating
    assert (np.diff(beyond.epochs) > 0).all() and (np.diff(beyond.price) > 0).all()
    assert (beyond.loss > wall.low.least_loss).all() and (beyond.loss[1:] > beyond.loss_unlimited[1:]).all()
    assert wall.low.year is None
    content = json.loads(json.dumps(wall.to_json(), allow_nan=False))
    assert "not measured on these runs" in content["assumptions"]
    assert content["low"]["repeating"]["epochs"][0] == pytest.approx(1)


def test_year_is_when_growing_compute_meets_the_growing_stock() -> None:
    trend = ComputeTrend(1e24, 2023.0, 4.0)
    wall = data_wall(PARAMS, SAMPLES, trend=trend).high
    assert wall.year is not None and wall.year_ci95 is not None
    U = HIGH_QUALITY_TEXT.high * 1.07 ** (wall.year - 2022)
    assert 1e24 * 4.0 ** (wall.year - 2023) == pytest.approx(float(wall_compute(PARAMS[None], U)[0]), rel=1e-9)
    assert wall.year_ci95[0] < wall.year < wall.year_ci95[1]
    slow = data_wall(PARAMS, SAMPLES, trend=ComputeTrend(1e24, 2023.0, 1.1))
    assert slow.high.year == np.inf and slow.to_json()["high"]["year"] is None  # type: ignore[index]


def test_wrong_stocks_and_trends_are_refused() -> None:
    for make in (
        lambda: Stock(2e12, 1e12, 0.07, 2022, "x"),
        lambda: Stock(0, 1e12, 0.07, 2022, "x"),
        lambda: Stock(1e12, 1e12, -1.0, 2022, "x"),
        lambda: ComputeTrend(-1, 2023, 4),
    ):
        with pytest.raises(FitError, match=r"stock|trend"):
            make()
