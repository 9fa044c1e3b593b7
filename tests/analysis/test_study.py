"""Every analysis that a table allows, each None with a reason where it does not apply."""

import json
import time
from collections.abc import Callable

import numpy as np
import pytest
from sixnd.analysis.fit import FitError, fit
from sixnd.analysis.study import comparison, next_design, stack_weights, study
from sixnd.analysis.tables.table import RunTable, table_of

Simulated = Callable[..., RunTable]
OPTIONAL = ("isoflop", "envelope", "metrics")


def test_a_plain_table(simulated: Simulated) -> None:
    table = simulated(0.005)
    fitted = fit(table, bootstrap=50)
    start = time.process_time()
    found = study(table, fitted)
    assert time.process_time() - start < 30
    assert found.table is table and found.fit is fitted and found.warnings == fitted.warnings
    assert [profile.name for profile in found.profiles] == ["a", "alpha", "beta", "E"]
    assert found.forecast is fitted.forecast
    assert found.comparison is not None and {score.law for score in found.comparison.scores} >= {"chinchilla", "stack"}
    assert found.overtraining is not None and fitted.ranges["C"][1] == found.overtraining.C
    assert found.data_wall is not None and found.data_wall.low.C > 0
    assert set(found.skipped) == set(OPTIONAL) and all(getattr(found, name) is None for name in OPTIONAL)
    assert "no column 'curve'" in found.skipped["envelope"] and "no column 'accuracy'" in found.skipped["metrics"]
    assert found.isoflop_bias is None


def test_parabolas_curves_and_metrics_where_there_are_such(simulated: Simulated) -> None:
    law = fit(simulated(0.0), bootstrap=0)
    sizes = np.geomspace(1e7, 1e9, 9)
    N, C = (grid.ravel() for grid in np.meshgrid(sizes, np.geomspace(1e19, 1e20, 3)))
    frame = table_of(simulated(0.0).frame).frame.iloc[:0].reindex(range(27))
    frame["N"], frame["D"] = N, C / (6 * N)
    frame["loss"] = law.predict(N, frame["D"]) * np.exp(0.001 * np.random.default_rng(0).standard_normal(27))
    ahead = np.geomspace(0.05, 1, 12)
    frame["curve"] = [
        json.dumps([[d * t, float(law.predict(n, d * t)), 0.0] for t in ahead])
        for n, d in zip(N, frame["D"], strict=True)
    ]
    frame["accuracy"] = np.exp(-0.5 * frame["loss"])
    frame["exact_match"] = [json.dumps({"4": p**4}) for p in frame["accuracy"]]
    table = table_of(frame)
    found = study(table, fit(table, bootstrap=20))
    assert found.isoflop is not None and found.isoflop.a == pytest.approx(law.frontier.a, abs=0.1)
    assert found.isoflop_bias is not None and found.envelope is not None
    assert found.metrics is not None and found.metrics.metrics[2].r2 > 0.9
    assert not set(found.skipped) & set(OPTIONAL)


def test_what_does_not_apply_says_why(simulated: Simulated) -> None:
    table = simulated(0.005, sizes=2, lengths=4)
    found = study(table, fit(table, "loglinear", bootstrap=0))
    assert found.overtraining is None and "alpha + B/D^beta + E only" in found.skipped["overtraining"]
    assert found.data_wall is None and "profile of E" in found.skipped
    assert "has no 'E'" in found.skipped["profile of E"]
    assert found.comparison is None and "fewer than 8 runs" in found.skipped["comparison"]


def test_the_stack_adds_up_and_the_comparison_is_of_the_rows_fitted(simulated: Simulated) -> None:
    fitted = fit(simulated(0.005), bootstrap=0)
    shares = stack_weights(fitted)
    assert sum(shares.values()) == pytest.approx(1) and list(shares.values()) == sorted(shares.values(), reverse=True)
    assert comparison(fitted).best.law in {"chinchilla", "tied", "coupled", "stack"}


def test_the_next_runs_of_a_fit(simulated: Simulated) -> None:
    fitted = fit(simulated(0.005), bootstrap=50)
    found = next_design(fitted, 1e21, target="N")
    assert found.flops <= 1e21 and found.after.log_N < found.before.log_N and found.target == "N"
    assert next_design(fit(simulated(0.005), bootstrap=0), 1e21).noise > 0
    with pytest.raises(FitError, match="E only"):
        next_design(fit(simulated(0.005), "tied", bootstrap=0), 1e21)
