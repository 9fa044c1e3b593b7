import json

import numpy as np
import pytest
from sixnd.analysis.budgets.frontier import check_optimum, frontier, frontier_of, lowest, optimal
from sixnd.analysis.budgets.overtrain import band, overtraining
from sixnd.analysis.laws import FitError

PARAMS = np.array([482.01, 2085.43, 1.81686, 0.34781, 0.36585])
SAMPLES = PARAMS * np.exp(0.02 * np.random.default_rng(0).standard_normal((200, 5)))
BUDGETS = np.array([1e18, 1e21, 1e24])
NONE = np.empty((0, 5))


def loss(params: np.ndarray, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    A, B, E, alpha, beta = params.T[:, :, None]
    return A / N**alpha + B / D**beta + E


def test_search_finds_what_the_closed_form_says() -> None:
    closed, searched = frontier(PARAMS, SAMPLES, BUDGETS), frontier_of(loss, PARAMS, SAMPLES, BUDGETS)
    assert searched.a == pytest.approx(closed.a, abs=1e-5) and searched.a_ci95 == pytest.approx(closed.a_ci95, abs=1e-5)
    assert closed.a_ci95 is not None and closed.b_ci95 is not None
    assert closed.a_ci95[0] < closed.a < closed.a_ci95[1] and closed.b_ci95[0] < closed.b < closed.b_ci95[1]
    assert closed.a + closed.b == pytest.approx(1)
    for name in ("N", "D", "tokens_per_parameter", "N_ci95", "D_ci95", "loss_ci95"):
        assert getattr(searched.budgets, name) == pytest.approx(getattr(closed.budgets, name), rel=1e-4)
    assert searched.budgets.loss == pytest.approx(closed.budgets.loss, abs=1e-8)


def test_search_of_a_coupled_law() -> None:
    """Kaplan et al. 2020, equation 1.5 with D in tokens: N* grows as C^(1/(1 + alpha_N/alpha_D))."""

    def kaplan(params: np.ndarray, N: np.ndarray, D: np.ndarray) -> np.ndarray:
        n, d, alpha_n, alpha_d = params.T[:, :, None]
        return ((n / N) ** (alpha_n / alpha_d) + d / D) ** alpha_d

    params = np.array([8.8e13, 5.4e13, 0.076, 0.095])
    found = frontier_of(kaplan, params, np.empty((0, 4)), BUDGETS)
    assert found.a == pytest.approx(1 / (1 + 0.076 / 0.095), abs=1e-5) and found.a_ci95 is None
    N = found.budgets.N[1] * np.geomspace(0.5, 2, 2001)
    losses = kaplan(params[None], N, BUDGETS[1] / (6 * N))[0]
    assert N[losses.argmin()] == pytest.approx(found.budgets.N[1], rel=1e-3)


def test_a_law_without_an_optimum_has_gaps() -> None:
    flat = np.array([482.01, 0.0, 1.8, 0.35, 0.37])
    found = frontier_of(loss, flat, NONE, BUDGETS)
    assert np.isnan(found.a) and np.isnan(found.budgets.N).all()
    assert found.to_json()["a"] is None
    with pytest.raises(FitError, match="no compute-optimal point"):
        check_optimum(flat)
    with pytest.raises(FitError, match="no compute-optimal point"):
        overtraining(flat, NONE, 1e21)
    with pytest.raises(FitError, match="every k must be positive"):
        overtraining(PARAMS, NONE, 1e21, np.array([2.0, 0.0]))


def test_json_has_one_entry_a_budget() -> None:
    content = json.loads(json.dumps(frontier(PARAMS, SAMPLES, BUDGETS).to_json(), allow_nan=False))
    assert [point["C"] for point in content["budgets"]] == list(BUDGETS)
    assert content["budgets"][1]["N_ci95"][0] < content["budgets"][1]["N"] < content["budgets"][1]["N_ci95"][1]
    bare = optimal(PARAMS, NONE, BUDGETS).to_json()
    assert bare[0]["N_ci95"] is None and bare[0]["tokens_per_parameter"] == pytest.approx(25.6, abs=0.1)


def test_lowest_is_a_vertex_or_an_end() -> None:
    x = np.arange(0.0, 3.0, 0.1)
    where, value = lowest(np.zeros(3), np.full(3, 0.1), np.array([(x - 1.234) ** 2, x, -x]))
    assert where == pytest.approx([1.234, 0.0, 2.9]) and value == pytest.approx([0.0, 0.0, -2.9], abs=1e-12)


def test_overtraining_agrees_with_the_law() -> None:
    cost = overtraining(PARAMS, SAMPLES, 1e21, np.array([1.5, 3.0, 6.0]))
    best = optimal(PARAMS, NONE, np.array([1e21]))
    at = PARAMS[None]
    assert best.N[0] / cost.smaller == pytest.approx(cost.N)
    assert loss(at, cost.N, cost.same_compute_D)[0] == pytest.approx(cost.same_compute_loss)
    assert 6 * cost.N * cost.same_compute_D == pytest.approx(1e21)
    assert cost.same_compute_excess == pytest.approx(cost.same_compute_loss - best.loss[0])
    assert loss(at, cost.N, cost.same_loss_D)[0] == pytest.approx(np.full(3, best.loss[0]))
    assert 6 * cost.N * cost.same_loss_D == pytest.approx(1e21 * cost.same_loss_compute)
    assert cost.same_loss_compute_ci95 is not None and cost.same_compute_excess_ci95 is not None
    for band_of, value in (
        (cost.same_loss_compute_ci95, cost.same_loss_compute),
        (cost.same_compute_excess_ci95, cost.same_compute_excess),
    ):
        assert (band_of[:, 0] < value).all() and (value < band_of[:, 1]).all()


def test_unreachable_is_said_not_dropped() -> None:
    """Above most_smaller the loss is out of reach; resamples where it is count as infinite, not as missing."""
    edge = overtraining(PARAMS, SAMPLES, 1e21).most_smaller
    cost = overtraining(PARAMS, SAMPLES, 1e21, np.array([0.99 * edge, 1.01 * edge]))
    assert np.isfinite(cost.same_loss_compute[0]) and np.isinf(cost.same_loss_compute[1])
    assert cost.least_loss[0] < cost.loss < cost.least_loss[1]
    assert cost.reachable_share is not None and 0.2 < cost.reachable_share[0] < 0.8
    assert cost.same_loss_compute_ci95 is not None and np.isinf(cost.same_loss_compute_ci95[0, 1])
    content = json.loads(json.dumps(cost.to_json(), allow_nan=False))
    assert content["same_loss_compute"][1] is None and len(content["unreachable"]) == 1
    assert "never reaches" in content["unreachable"][0]


def test_band_keeps_infinities() -> None:
    values = np.arange(1000.0)
    assert band(values) == pytest.approx([24, 975])
    values[500:] = np.nan
    assert band(values)[0] == 24 and np.isinf(band(values)[1])
