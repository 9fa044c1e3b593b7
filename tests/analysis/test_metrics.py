import json

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sixnd.analysis.laws import FitError
from sixnd.analysis.methods.metrics import Measured, MetricStudy, measured_of, metric_study
from sixnd.analysis.tables.table import TableError

Array = npt.NDArray[np.float64]
LEVEL, SLOPE = 0.1, -0.45  # log accuracy = LEVEL + SLOPE * loss
EFFECTIVE = {2: 1.7, 8: 5.0}
N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))


def predict(N: Array, D: Array) -> Array:
    return 400 / N**0.34 + 1500 / D**0.37 + 1.8


def loss_at(C: Array) -> Array:
    x = np.linspace(10, 25, 2000)
    grid = predict(np.exp(x)[:, None], C / 6 / np.exp(x)[:, None])
    return np.asarray(grid.min(axis=0))


def truth() -> Measured:
    p = np.exp(LEVEL + SLOPE * predict(N, D))
    return Measured(p, {1: p, **{k: p**e for k, e in EFFECTIVE.items()}})


def study(measured: Measured, fitted: npt.NDArray[np.bool_] | None = None) -> MetricStudy:
    return metric_study(N, D, predict(N, D), measured, predict, loss_at, fitted)


def test_sharp_metrics_made_from_the_loss_are_foretold() -> None:
    found = study(truth())
    assert [m.tokens for m in found.metrics] == [0, 1, 2, 8]
    for metric in found.metrics:
        assert metric.r2 == pytest.approx(1.0, abs=1e-6)
        assert metric.max_error < 1e-4
    assert [m.effective_tokens for m in found.metrics[2:]] == pytest.approx([1.7, 5.0], abs=1e-3)
    assert "the loss foretells the sharp metrics" in found.summary


def test_the_more_tokens_must_match_the_later_the_rise() -> None:
    shares = [m.last_decade for m in study(truth()).metrics[1:]]
    assert shares == sorted(shares)
    assert shares[-1] > 2 * shares[0]


def test_independent_tokens_predict_worse_when_tokens_are_not_independent() -> None:
    sharp = study(truth()).metrics[-1]
    assert sharp.r2_independent is not None
    assert sharp.r2_independent < 0.9


def test_a_real_emergence_is_not_explained() -> None:
    measured = truth()
    jump = np.where(np.log(N * D) > np.median(np.log(N * D)), 0.5, 0.0)
    found = study(Measured(measured.accuracy, {8: jump}))
    assert found.metrics[-1].r2 < 0.9
    assert "the loss does not foretell the sharp metrics" in found.summary


def test_held_out_runs_are_scored_and_those_fitted_are_not() -> None:
    measured = truth()
    small = np.log(N * D) <= np.log(N * D).max() - np.log(30)
    wrong = np.where(small, measured.exact_match[8], 0.9)
    found = study(Measured(measured.accuracy, {8: wrong}), fitted=small)
    assert (found.scored == ~small).all()
    assert found.metrics[-1].effective_tokens == pytest.approx(5.0, abs=1e-3)
    assert found.metrics[-1].max_error > 0.5
    assert "that the fit has not seen" in found.summary


def test_runs_without_a_metric_are_left_out() -> None:
    measured = truth()
    accuracy = measured.accuracy.copy()
    accuracy[:20] = np.nan
    found = study(Measured(accuracy, measured.exact_match))
    assert found.scored.sum() == 16
    assert found.metrics[-1].r2 == pytest.approx(1.0, abs=1e-6)
    accuracy[3:] = np.nan
    with pytest.raises(FitError, match="at least 4 runs with an accuracy"):
        study(Measured(accuracy, {}))


def test_a_ledger_s_columns_are_read() -> None:
    frame = pd.DataFrame({"accuracy": [0.2, None], "exact_match": [json.dumps({"2": 0.1, "4": 0.01}), None]})
    found = measured_of(frame)
    assert found.accuracy[0] == 0.2 and np.isnan(found.accuracy[1])
    assert list(found.exact_match) == [2, 4]
    assert found.exact_match[4][0] == 0.01 and np.isnan(found.exact_match[4][1])


@pytest.mark.parametrize(
    ("accuracy", "match", "message"),
    [
        (0.2, "[1]", "row 1, column exact_match: not a mapping"),
        (0.2, '{"two": 1}', "row 1, column exact_match: not a mapping"),
        (0.2, '{"2": 1.5}', "row 1, column exact_match: shares must lie between 0 and 1"),
        (0.2, '{"0": 0.5}', "a match has at least 1 token"),
        (20.0, "{}", "column accuracy: shares must lie between 0 and 1"),
    ],
)
def test_broken_columns_are_named_in_one_line(accuracy: float, match: str, message: str) -> None:
    with pytest.raises(TableError, match=message) as error:
        measured_of(pd.DataFrame({"accuracy": [accuracy], "exact_match": [match]}), source="runs.csv")
    assert str(error.value).startswith("runs.csv: ")
    assert "\n" not in str(error.value)


def test_a_table_without_the_columns_is_refused() -> None:
    with pytest.raises(TableError, match="no column 'accuracy'"):
        measured_of(pd.DataFrame({"N": [1.0]}))
