import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sixnd.analysis.fit import Fit, FitError, fit
from sixnd.analysis.predict import load_fit, predict_at, predict_at_flops
from sixnd.analysis.tables.table import RunTable, read_table

Simulated = Callable[..., RunTable]
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def codes(fitted: Fit) -> set[str]:
    return {warning.code for warning in fitted.warnings}


def test_recovers_a_known_law_without_noise(simulated: Simulated, true: dict[str, float]) -> None:
    fitted = fit(simulated(0.0), bootstrap=50)
    assert fitted.params == pytest.approx(true, rel=1e-5)
    assert fitted.frontier.a == pytest.approx(0.37 / 0.71, rel=1e-6) and fitted.objective < 1e-20
    assert fitted.frontier.a + fitted.frontier.b == pytest.approx(1)
    assert not codes(fitted) & {"exponent_unidentified", "E_unidentified", "outlier", "influential_run", "few_runs"}
    assert fitted.predict(1e8, [1e10, 1e11]) == pytest.approx(
        [400 / 1e8**0.34 + 1500 / D**0.37 + 1.8 for D in (1e10, 1e11)]
    )


def test_intervals_hold_the_truth_and_the_seed_decides(simulated: Simulated, true: dict[str, float]) -> None:
    table = simulated(0.003, sizes=8, lengths=8)
    fitted = fit(table, bootstrap=300, seed=5)
    assert all(low < true[name] < high for name, (low, high) in fitted.ci95.items())
    assert fitted.frontier.a_ci95 is not None and fitted.frontier.a_ci95[0] < 0.37 / 0.71 < fitted.frontier.a_ci95[1]
    assert fitted.samples.shape == (300, 5) and fitted.se["alpha"] == pytest.approx(fitted.samples[:, 3].std(ddof=1))
    assert fit(table, bootstrap=300, seed=5).ci95 == fitted.ci95 != fit(table, bootstrap=300, seed=6).ci95


def test_frontier_is_the_optimum_of_the_law(simulated: Simulated) -> None:
    fitted = fit(simulated(0.003), bootstrap=50)
    points = fitted.optimal([1e20, 1e22])
    for k, C in enumerate((1e20, 1e22)):
        N = points.N[k] * np.geomspace(0.2, 5, 2001)
        assert N[np.argmin(fitted.predict(N, C / (6 * N)))] == pytest.approx(points.N[k], rel=2e-3)
        assert 6 * points.N[k] * points.D[k] == pytest.approx(C)
        assert points.N_ci95 is not None and points.N_ci95[k, 0] < points.N[k] < points.N_ci95[k, 1]
    assert np.log(points.N[1] / points.N[0]) / np.log(100) == pytest.approx(fitted.frontier.a)


@FEW
@given(seed=st.integers(0, 10**6))
def test_row_order_does_not_matter(simulated: Simulated, table_of: Callable[..., RunTable], seed: int) -> None:
    table = simulated(0.005, seed=seed)
    order = np.random.default_rng(seed).permutation(len(table.N))
    one, other = fit(table, bootstrap=0), fit(table_of(table.N[order], table.D[order], table.loss[order]), bootstrap=0)
    assert other.params == pytest.approx(one.params, rel=1e-4) and other.objective == pytest.approx(
        one.objective, rel=1e-9
    )


@FEW
@given(k=st.floats(1e-9, 1e9), m=st.floats(1e-9, 1e9), seed=st.integers(0, 100))
def test_units_leave_the_exponents(
    simulated: Simulated, table_of: Callable[..., RunTable], k: float, m: float, seed: int
) -> None:
    table = simulated(0.005, seed=seed)
    one, other = fit(table, bootstrap=0), fit(table_of(table.N * k, table.D * m, table.loss), bootstrap=0)
    for name in ("alpha", "beta", "E"):
        assert other.params[name] == pytest.approx(one.params[name], rel=1e-4)
    assert other.params["A"] == pytest.approx(one.params["A"] * k ** one.params["alpha"], rel=1e-2)
    assert other.objective == pytest.approx(one.objective, rel=1e-9)


@FEW
@given(copies=st.integers(2, 4), seed=st.integers(0, 100))
def test_copies_of_all_rows_leave_the_optimum(
    simulated: Simulated, table_of: Callable[..., RunTable], copies: int, seed: int
) -> None:
    table = simulated(0.005, seed=seed)
    one = fit(table, bootstrap=0)
    other = fit(table_of(*(np.tile(values, copies) for values in (table.N, table.D, table.loss))), bootstrap=0)
    assert other.params == pytest.approx(one.params, rel=1e-4)
    assert other.objective == pytest.approx(one.objective * copies, rel=1e-9)


def test_json_contract_and_back(simulated: Simulated, tmp_path: Path) -> None:
    fitted = fit(simulated(0.005), bootstrap=300)
    text = json.dumps(fitted.to_json(), allow_nan=False)
    content = json.loads(text)
    assert {"law", "n_runs", "objective", "params", "se", "ci95", "frontier", "warnings"} <= set(content)
    assert content["law"] == "chinchilla" and content["n_runs"] == 30
    for part in ("params", "se", "ci95"):
        assert set(content[part]) == {"A", "B", "E", "alpha", "beta"}
    assert {"a", "b", "a_ci95", "b_ci95"} <= set(content["frontier"]) and len(content["frontier"]["a_ci95"]) == 2
    assert len(content["samples"]) == 200 and content["bootstrap"] == 300
    (tmp_path / "fit.json").write_text(text)
    back = load_fit(tmp_path / "fit.json")
    inside = predict_at(back, 1e8, 1e10)
    assert inside["law_loss"] == pytest.approx(float(fitted.predict(1e8, 1e10))) and inside["warnings"] == []
    assert [inside[name] for name in ("loss", "lo95", "hi95")] == pytest.approx(
        [float(value) for value in fitted.interval(1e8, 1e10)]
    )
    assert inside["lo95"] < inside["loss"] < inside["hi95"] and inside["C"] == pytest.approx(6e18)
    far = predict_at_flops(back, 1e26)
    assert (
        far["N_opt"] == pytest.approx(fitted.optimal(1e26).N[0])
        and far["N_opt_lo95"] < far["N_opt"] < far["N_opt_hi95"]
    )
    message = [warning["message"] for warning in far["warnings"] if warning["message"].startswith("C")]
    assert message == ["C = 1e+26 is 3.7 decades above the largest C of the fit (1.8e+22)"]
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(FitError, match="positive number"):
            predict_at(back, bad, 1e9)
        with pytest.raises(FitError, match="positive number"):
            predict_at_flops(back, bad)


def test_without_bootstrap_intervals_are_null(simulated: Simulated, tmp_path: Path) -> None:
    fitted = fit(simulated(0.005), bootstrap=0)
    content = fitted.to_json()
    assert content["se"] is None and content["ci95"] is None and "no_intervals" in codes(fitted)
    (tmp_path / "fit.json").write_text(json.dumps(content, allow_nan=False))
    assert predict_at(load_fit(tmp_path / "fit.json"), 1e8, 1e10)["lo95"] is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"law": "chinchilla"}', '{"law": "other"}', "\x00\xff"])
def test_other_files_are_not_fits(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fit.json"
    path.write_text(text)
    with pytest.raises(FitError, match="not a fit written by") as error:
        load_fit(path)
    assert "\n" not in str(error.value)
    with pytest.raises(FitError, match="cannot be read"):
        load_fit(tmp_path / "none.json")


def test_what_cannot_be_fitted(simulated: Simulated, table_of: Callable[..., RunTable]) -> None:
    table = simulated(0.005)
    N, D, loss = table.N, table.D, table.loss
    for bad, says in (
        (table_of(N[:5], D[:5], loss[:5]), "5 runs cannot fix five parameters"),
        (table_of(N * 0 + 1e8, D, loss), "N takes one value"),
        (table_of(N, D * 0 + 1e8, loss), "D takes one value"),
        (table_of(N, D, loss * 0 + 3), "loss is the same in all 30 runs"),
    ):
        with pytest.raises(FitError, match=says):
            fit(bad)
    for delta in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(FitError, match="delta must lie"):
            fit(table, delta=delta)
    for count in (-1, 1):
        with pytest.raises(FitError, match="bootstrap must be"):
            fit(table, bootstrap=count)


@pytest.mark.filterwarnings("error")
def test_hostile_tables_end_in_numbers_and_warnings(simulated: Simulated, table_of: Callable[..., RunTable]) -> None:
    table = simulated(0.01)
    noise = np.exp(np.random.default_rng(0).standard_normal(30))
    for N, D, loss in (
        (table.N * 1e22, table.D, table.loss),
        (table.N * 1e-290, table.D * 1e250, table.loss),
        (table.N, table.D, noise),
        (table.N, table.D, 1 / table.loss),
        (table.N, table.D, table.loss * 1e-30),
        (table.N[:6], table.D[:6] * np.array([1, 1, 1, 2, 2, 2]), table.loss[:6]),
        (table.N, np.where(np.arange(30) < 29, 1e9, 2e9), table.loss),
    ):
        fitted = fit(table_of(N, D, loss), bootstrap=20)
        json.dumps(fitted.to_json(), allow_nan=False)
        assert np.isfinite(fitted.objective) and fitted.warnings


def test_verdicts_name_what_is_wrong(simulated: Simulated, table_of: Callable[..., RunTable]) -> None:
    table = simulated(0.01)
    ridge = np.geomspace(1e7, 1e10, 30)
    fixed = fit(table_of(ridge, 20 * ridge, 400 / ridge**0.3 + 2 + 0.001 * np.sin(np.arange(30))), bootstrap=200)
    assert {"alpha_beta_not_separable", "exponent_unidentified"} <= codes(fixed)
    assert codes(fit(simulated(0.01, sizes=2, lengths=4), bootstrap=0)) >= {"few_runs", "no_intervals"}
    assert "E_unidentified" in codes(fit(table_of(table.N, table.D, table.loss - 1.79), bootstrap=200))
    loss = table.loss.copy()
    loss[7] *= 1.5
    spoiled = fit(table_of(table.N, table.D, loss), bootstrap=200)
    message = {warning.code: warning.message for warning in spoiled.warnings}["outlier"]
    assert "run 8 of the table" in message and "outlier" not in codes(fit(simulated(0.001), bootstrap=200))


def test_dropping_the_smallest_D_is_reported(simulated: Simulated, table_of: Callable[..., RunTable]) -> None:
    table = simulated(0.0005)
    bent = np.where(table.D < 1.1e9, table.loss * 1.2, table.loss)
    fitted = fit(table_of(table.N, table.D, bent), bootstrap=200)
    message = {warning.code: warning.message for warning in fitted.warnings}["exponent_unidentified"]
    assert "without the 6 runs of smallest D beta moves from" in message
    assert "influential_run" not in codes(fit(simulated(0.001, sizes=8, lengths=8), bootstrap=200))


def test_one_influential_run_is_named(simulated: Simulated, table_of: Callable[..., RunTable]) -> None:
    table = simulated(0.0005, sizes=5, lengths=4)
    loss = table.loss.copy()
    loss[9] *= 1.05
    fitted = fit(table_of(table.N, table.D, loss), delta=1.0, bootstrap=200)
    message = {warning.code: warning.message for warning in fitted.warnings}.get("influential_run", "")
    assert "without run 10 of the table (N = 1e+10, D = 6.69e+09) a is" in message


def test_outliers_move_chinchilla(reference: Path) -> None:
    clean = fit(read_table(reference / "chinchilla_epoch.csv", where="in_published_fit = 1"), bootstrap=0)
    everything = fit(read_table(reference / "chinchilla_epoch.csv"), bootstrap=0)
    assert clean.frontier.a == pytest.approx(0.514, abs=5e-4) and everything.frontier.a == pytest.approx(
        0.565, abs=5e-4
    )
    assert "outlier" in codes(everything) and everything.n_runs == 245
