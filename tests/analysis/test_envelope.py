import json

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sixnd.analysis.laws import FitError
from sixnd.analysis.methods.envelope import Curves, cooldown_gap, curves_of, envelope
from sixnd.analysis.tables.table import TableError

Array = npt.NDArray[np.float64]
A, B, E, ALPHA, BETA = 400.0, 1500.0, 1.8, 0.34, 0.37
EXPONENT = BETA / (ALPHA + BETA)


def loss(N: Array, D: Array) -> Array:
    return A / N**ALPHA + B / D**BETA + E


def curves(sizes: int = 40, points: int = 60, noise: float = 0.0, seed: int = 0) -> Curves:
    """One run a size, each passing 1 to 1000 tokens a parameter, its loss that of the law."""
    N = np.repeat(np.geomspace(1e7, 1e10, sizes), points)
    D = N * np.tile(np.geomspace(1, 1000, points), sizes)
    rng = np.random.default_rng(seed)
    wobble = np.repeat(rng.standard_normal(sizes), points)  # a run is lucky or not as a whole
    return Curves(np.repeat(np.arange(sizes), points), N, D, loss(N, D) * np.exp(noise * wobble))


def test_the_envelope_of_ideal_curves_is_the_frontier_of_the_law() -> None:
    found = envelope(curves(), bootstrap=0)
    assert found.a == pytest.approx(EXPONENT, abs=0.005)
    assert found.a + found.b == 1
    gamma = ALPHA * BETA / (ALPHA + BETA)
    assert found.gamma == pytest.approx(gamma, rel=0.03)
    assert pytest.approx(E, rel=0.02) == found.E
    fitted = found.E + found.K * found.C**-found.gamma
    assert np.abs(np.log(fitted / found.loss)).max() < 1e-3
    G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    optimum = G * (found.C / 6) ** EXPONENT
    assert np.abs(np.log(found.N / optimum)).max() < 0.15  # sizes are 18 % apart
    assert np.abs(np.log(6 * found.N * found.D / found.C)).max() < 1e-9
    assert found.ci95 is None


def test_points_where_the_range_of_sizes_chose_are_left_out() -> None:
    found = envelope(curves(), bootstrap=0)
    assert 0 < found.share_at_edge < 1
    assert found.N.min() > 1.001e7 and found.N.max() < 0.999e10


def test_lucky_runs_do_not_flatten_the_line() -> None:
    """Points chosen by the N that attains them would bring a down by .03 here."""
    found = [envelope(curves(noise=0.003, seed=seed), bootstrap=0).a for seed in range(12)]
    assert np.mean(found) == pytest.approx(EXPONENT, abs=0.01)


def test_intervals_come_from_whole_runs_and_hold_the_truth() -> None:
    found = envelope(curves(noise=0.003), bootstrap=200)
    assert found.ci95 is not None
    low, high = found.ci95["a"]
    assert low < EXPONENT < high
    assert 0.002 < high - low < 0.2
    again = envelope(curves(noise=0.003), bootstrap=200)
    assert again.ci95 == found.ci95
    exact = envelope(curves(), bootstrap=200)
    assert exact.ci95 is not None
    assert exact.ci95["a"][1] - exact.ci95["a"][0] < high - low


def test_the_cooldown_gap_is_measured_where_a_longer_run_passes_the_end_of_a_shorter() -> None:
    D = np.geomspace(1e9, 1e10, 20)
    N = np.full(20, 1e8)
    passing = loss(N, D) * 1.05
    passing[-1] /= 1.05
    short = slice(0, 11)
    ending = passing[short].copy()
    ending[-1] /= 1.05
    both = Curves(
        np.repeat([0, 1], [20, 11]), np.full(31, 1e8), np.concatenate([D, D[short]]), np.concatenate([passing, ending])
    )
    assert cooldown_gap(both) == pytest.approx(np.log(1.05), rel=1e-6)
    assert cooldown_gap(curves(sizes=3)) is None


def test_a_ledger_s_curves_are_read_and_rows_without_one_passed_over() -> None:
    cells = [json.dumps([[1000, 5.0, 0.1], [2000, 4.5, None]]), None, [(1000, 4.9, None)]]
    found = curves_of(pd.DataFrame({"N_total": [10, 20, 30], "curve": cells}))
    assert found.run.tolist() == [0, 0, 2]
    assert found.N.tolist() == [10, 10, 30]
    assert found.D.tolist() == [1000, 2000, 1000]
    assert found.loss.tolist() == [5.0, 4.5, 4.9]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{", "row 1, column curve: not a list"),
        ("7", "row 1, column curve: not a list"),
        ("[[1000]]", "row 1, column curve: not a list"),
        ("[[1000, -1.0, null]]", "must be positive"),
        ("[[1000, NaN, null]]", "must be positive"),
        ("", "no row has a training curve"),
    ],
)
def test_a_broken_curve_is_named_in_one_line(cell: str, message: str) -> None:
    with pytest.raises(TableError, match=message) as error:
        curves_of(pd.DataFrame({"N_total": [10], "curve": [cell]}), source="runs.csv")
    assert str(error.value).startswith("runs.csv: ")
    assert "\n" not in str(error.value)


def test_a_missing_column_and_too_few_sizes_are_refused() -> None:
    with pytest.raises(TableError, match="no column 'curve'"):
        curves_of(pd.DataFrame({"N_total": [10]}))
    with pytest.raises(FitError, match="at least 3 sizes"):
        envelope(curves(sizes=2))
