"""A fit as a file: predictions of new runs, of tables of them, and of budgets, without the run table."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sixnd.analysis.budgets.budget import flops_of
from sixnd.analysis.budgets.outlook import outlook
from sixnd.analysis.fit import Fit, FitError, fit
from sixnd.analysis.predict import FitFile, load_fit, predict_at, predict_at_flops, predict_rows
from sixnd.analysis.tables.points import read_points
from sixnd.analysis.tables.read import TableError
from sixnd.analysis.tables.table import RunTable


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return {}


@pytest.fixture
def fitted(simulated: Callable[..., RunTable], kept: dict[str, Any]) -> Fit:
    """One fit for the whole module."""
    if "fit" not in kept:
        kept["fit"] = fit(simulated(0.005), bootstrap=200)
    found = kept["fit"]
    assert isinstance(found, Fit)
    return found


def written(path: Path, document: dict[str, Any]) -> FitFile:
    path.write_text(json.dumps(document, allow_nan=False))
    return load_fit(path)


def test_rows_hold_the_predictive_interval_of_the_fit(fitted: Fit, tmp_path: Path) -> None:
    N, D = np.array([1e8, 1e9, 1e12]), np.array([1e10, 2e10, 2e13])
    rows = predict_rows(written(tmp_path / "fit.json", fitted.to_json()), N, D)
    assert [list(row) for row in rows] == [["N", "D", "loss", "lo95", "hi95"]] * 3
    for k, column in enumerate(("loss", "lo95", "hi95")):
        assert [row[column] for row in rows] == pytest.approx(fitted.interval(N, D)[k].tolist())
    inside, far = (rows[k]["hi95"] - rows[k]["lo95"] for k in (0, 2))  # type: ignore[operator]
    assert 0 < inside / rows[0]["loss"] < far / rows[2]["loss"], "beyond the data the interval is wider"  # type: ignore[operator]


def test_a_new_run_is_less_certain_than_the_curve(fitted: Fit, tmp_path: Path) -> None:
    document = fitted.to_json()
    with_noise = predict_at(written(tmp_path / "fit.json", document), 1e8, 1e10)
    curve = predict_at(written(tmp_path / "old.json", document | {"forecast": None}), 1e8, 1e10)
    assert with_noise["hi95"] - with_noise["lo95"] > 1.5 * (curve["hi95"] - curve["lo95"])
    assert curve["loss"] == curve["law_loss"] == with_noise["law_loss"]
    (warning,) = curve["warnings"]
    assert warning["code"] == "no_forecast" and "curve only" in warning["message"]


def test_a_file_of_an_older_version_still_works(fitted: Fit, tmp_path: Path) -> None:
    new = ("certificate", "loss", "resampling", "notes", "seed_sd", "clusters", "forecast")
    old = {name: value for name, value in fitted.to_json().items() if name not in new}
    old |= {"starts_agreeing": 12, "gradient_norm": 1e-9}
    back = written(tmp_path / "fit.json", old)
    assert predict_at_flops(back, 1e21)["N_opt"] == pytest.approx(fitted.optimal(1e21).N[0])
    assert predict_at(back, 1e8, 1e10)["lo95"] < predict_at(back, 1e8, 1e10)["loss"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"law": "other"}, "law 'other' is unknown; allowed are chinchilla"),
        ({"law": "tied"}, "the tied law has the parameters A, B, E, alpha"),
        ({"params": {"A": -1.0, "B": 1.0, "E": 1.0, "alpha": 1.0, "beta": 1.0}}, "none below 0"),
        ({"samples": [[1.0, 2.0]]}, "5 values each"),
        ({"forecast": {"members": 3}}, "forecast: not what a fit writes"),
        ({"n_runs": "many"}, "n_runs"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(fitted: Fit, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(FitError, match="not a fit written by") as error:
        written(tmp_path / "fit.json", fitted.to_json() | change)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
def test_absurd_sizes_end_in_numbers(fitted: Fit, tmp_path: Path) -> None:
    back = written(tmp_path / "fit.json", fitted.to_json())
    for N, D in ((1e300, 1e300), (1e-300, 1e-300), (1.0, 1e30)):
        found = predict_at(back, N, D)
        json.dumps(found, allow_nan=False)
        assert found["lo95"] <= found["loss"] <= found["hi95"]
        assert "extrapolation" in {warning["code"] for warning in found["warnings"]}


def test_points_are_read_from_any_table(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text('params (M),tokens\n70,1.4B\n"1,000",2e9\n')
    N, D = read_points(tmp_path / "new.csv")
    assert N.tolist() == [7e7, 1e9] and D.tolist() == [1.4e9, 2e9]
    for text, says in (
        ("N,loss\n1,2\n", "there is no column 'D'"),
        ("N,D\n1e9,-3\n", "row 1, column D: .*-3.* is not a positive number"),
        ("N,D\n1e9,1e9\n,1e9\n", "row 2, column N"),
        ("N,D\nx,1e9\n", "'x' is not a positive number"),
        ("N,D\n", "holds no rows"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(TableError, match=says) as error:
            read_points(tmp_path / "bad.csv")
        assert "\n" not in str(error.value)
    with pytest.raises(TableError, match="no such file"):
        read_points(tmp_path / "none.csv")


def test_the_outlook_at_budgets(fitted: Fit, tmp_path: Path) -> None:
    back = written(tmp_path / "fit.json", fitted.to_json())
    budgets = [flops_of("1e21"), flops_of("$500")]
    found = outlook(back, budgets, budgets[0].machine)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    first, second = document["points"]
    assert first["N"] == pytest.approx(fitted.optimal(1e21).N[0]) and first["N_ci95"][0] < first["N"]
    assert first["run_lo95"] < first["run_loss"] < first["run_hi95"]
    assert second["budget"]["dollars"] == pytest.approx(500) and second["C"] == budgets[1].flops
    assert first["overtraining"]["C"] == 1e21 and document["data_wall"]["low"]["C"] > 0
    assert document["a"] == pytest.approx(fitted.frontier.a) and document["warnings"] == []
    mine = outlook(back, [], budgets[0].machine, unique_tokens=1e12)
    assert pytest.approx(fitted.frontier.budgets.C) == mine.points.C and mine.data_wall is not None
    assert mine.data_wall.low.unique_tokens == mine.data_wall.high.unique_tokens == 1e12
    assert {warning["code"] for warning in mine.warnings} == {"extrapolation"}


def test_the_outlook_of_another_law_has_no_data_wall(simulated: Callable[..., RunTable], tmp_path: Path) -> None:
    fitted = fit(simulated(0.005), "kaplan", bootstrap=0)
    budget = flops_of("1e21")
    found = outlook(written(tmp_path / "fit.json", fitted.to_json()), [budget], budget.machine)
    assert found.data_wall is None and found.overtraining is None and found.points.N_ci95 is None
    assert [warning["code"] for warning in found.warnings] == ["no_forecast"]
