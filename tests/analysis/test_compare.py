"""Forward-chained comparison of laws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sixnd.analysis.forecasts.chaining import folds
from sixnd.analysis.forecasts.compare import Comparison, compare, interval_score
from sixnd.analysis.laws import Chinchilla, FitError, LogLinear, Rows, Tied

LAWS = (LogLinear(), Chinchilla(), Tied())


@pytest.fixture(scope="module")
def rows() -> Rows:
    """A 6 x 6 grid of runs under the Chinchilla law with 0.5 % noise."""
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 3e11, 6)))
    loss = Chinchilla().loss(np.array([[482.0, 2085.0, 1.82, 0.348, 0.366]]), N, D)[0]
    return Rows.of(N, D, loss * np.exp(0.005 * np.random.default_rng(0).standard_normal(36)))


@pytest.fixture(scope="module")
def compared(rows: Rows) -> Comparison:
    return compare(rows, LAWS)


def test_interval_score_is_width_and_forty_times_the_miss() -> None:
    score = interval_score(np.array([0.5, 1.5, -0.25]), np.zeros(3), np.ones(3), 0.95)
    assert score == pytest.approx([1.0, 1.0 + 40 * 0.5, 1.0 + 40 * 0.25])
    assert interval_score(np.array([2.0]), np.zeros(1), np.ones(1), 0.5) == pytest.approx([1.0 + 4 * 1.0])


def test_the_law_behind_the_runs_beats_the_baseline(compared: Comparison) -> None:
    by_name = {score.law: score for score in compared.scores}
    assert set(by_name) == {"loglinear", "chinchilla", "tied", "stack"}
    assert compared.scores[-1].law == "loglinear"
    assert by_name["loglinear"].score > 1.5 * by_name["chinchilla"].score
    assert by_name["loglinear"].error > by_name["chinchilla"].error
    assert by_name["chinchilla"].coverage > 0.85
    assert by_name["chinchilla"].rms == pytest.approx(0.005, rel=0.3)
    assert by_name["stack"].rms is None


def test_scores_are_sorted_and_behind_is_paired(compared: Comparison) -> None:
    scores = [score.score for score in compared.scores]
    assert scores == sorted(scores)
    assert compared.best.behind == 0.0
    assert compared.best.behind_se is None
    for score in compared.scores[1:]:
        assert score.behind == pytest.approx(score.score - compared.best.score)
        assert score.behind_se is not None
        assert score.behind_se > 0


def test_folds_are_those_of_forward_chaining(rows: Rows, compared: Comparison) -> None:
    trained = folds(rows)[1:]
    C = 6 * np.exp(rows.x + rows.x_mean + rows.z + rows.z_mean)
    assert compared.trained == pytest.approx([C[seen].max() for seen in trained])


def test_runs_not_seen_do_not_help(rows: Rows) -> None:
    """The largest run is fitted by no fold and alone in the first: spoiled by 1, it spoils that fold's error by 1 and no other's."""
    largest = rows.c == rows.c.max()
    assert (~folds(rows)[1] == largest).all()
    spoiled = rows.with_losses(np.where(largest, rows.y + 1.0, rows.y))
    before, after = (compare(each, [Chinchilla()]) for each in (rows, spoiled))
    assert (after.best.error - before.best.error) * len(after.trained) == pytest.approx(1.0, abs=0.05)


def test_json(compared: Comparison) -> None:
    data = json.loads(json.dumps(compared.to_json(), allow_nan=False))
    assert [law["law"] for law in data["laws"]] == [score.law for score in compared.scores]
    assert data["level"] == 0.95


def test_one_law_has_no_stack(rows: Rows) -> None:
    assert [score.law for score in compare(rows, [Chinchilla()]).scores] == ["chinchilla"]


def test_runs_of_one_budget_cannot_be_chained() -> None:
    N = np.geomspace(1e7, 1e9, 9)
    with pytest.raises(FitError, match="laws are compared by predicting runs of more compute"):
        compare(Rows.of(N, 1e18 / N, np.linspace(3, 4, 9)), LAWS)
