import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.fit import FitError, fit
from sixnd.analysis.laws import Kaplan
from sixnd.analysis.predict import load_fit, predict_at, predict_at_flops
from sixnd.analysis.solver.losses import AsymmetricHuber, LeastSquares
from sixnd.analysis.tables.table import RunTable, TableError
from sixnd.analysis.tables.table import table_of as read_frame

from tests.analysis.test_fit import Simulated


def test_the_certificate_and_what_else_is_in_the_file(simulated: Simulated) -> None:
    fitted = fit(simulated(0.005), bootstrap=50)
    content = fitted.to_json()
    certificate = content["certificate"]
    assert isinstance(certificate, dict) and 1 <= certificate["agreeing"] <= certificate["starts"]
    assert certificate["gradient_norm"] < 1e-6 < 1 < certificate["condition"]
    assert content["loss"] == {"name": "huber", "delta": 1e-3} and content["resampling"] == "residual bootstrap"
    assert content["seed_sd"] is None and content["clusters"] is None and isinstance(content["forecast"], dict)
    assert fitted.rows.weight.tolist() == [1.0] * 30 and content["notes"] == ["intervals: residual bootstrap"]


@pytest.mark.parametrize("law", ["tied", "coupled", "kaplan", "loglinear", "envelope"])
def test_every_law_fits_itself_and_comes_back(
    simulated: Simulated, table_of: Callable[..., RunTable], tmp_path: Path, law: str
) -> None:
    table = simulated(0.0)
    truth = fit(simulated(0.003), law, bootstrap=0)
    own = table_of(table.N, table.D, truth.predict(table.N, table.D))
    fitted = fit(own, law, bootstrap=20)
    assert fitted.objective < 1e-12 and fitted.law == law and list(fitted.params) == list(fitted.model.params)
    assert fitted.predict(1e9, 1e11) == pytest.approx(truth.predict(1e9, 1e11), rel=1e-4)
    (tmp_path / "fit.json").write_text(json.dumps(fitted.to_json(), allow_nan=False))
    back = load_fit(tmp_path / "fit.json")
    assert back.theta == pytest.approx(fitted.theta) and back.theta_samples.shape == (20, len(fitted.params))
    assert predict_at(back, 1e9, 1e11)["law_loss"] == pytest.approx(float(fitted.predict(1e9, 1e11)))
    if law in ("loglinear", "envelope"):
        points = fitted.optimal(np.geomspace(1e18, 1e23, 6))
        assert np.isnan(fitted.frontier.a) and points.N_ci95 is not None
        assert np.isnan(points.N).all() and np.isnan(points.N_ci95).all(), "rounding chooses no N"
        with pytest.raises(FitError, match="no compute-optimal point"):
            predict_at_flops(back, 1e21)
    else:
        N = fitted.optimal(1e21).N[0] * np.geomspace(0.2, 5, 1001)
        assert N[np.argmin(fitted.predict(N, 1e21 / (6 * N)))] == pytest.approx(fitted.optimal(1e21).N[0], rel=5e-3)


def test_repeated_tokens_have_a_law_of_their_own(simulated: Simulated) -> None:
    table = simulated(0.002)
    frame = table.frame.assign(unique_tokens=np.minimum(table.D, 2e10))
    fitted = fit(read_frame(frame), "data_constrained", bootstrap=0)
    assert set(fitted.params) == {"A", "B", "E", "alpha", "beta", "R_D", "R_N"}
    with pytest.raises(FitError, match="not forecast"):
        fitted.interval(1e9, 1e11)
    with pytest.raises(FitError, match="needs a column of unique tokens, U or"):
        fit(table, "data_constrained", bootstrap=0)
    with pytest.raises(FitError, match="unique tokens must be positive"):
        fit(read_frame(frame.assign(unique_tokens=0)), "data_constrained", bootstrap=0)


def test_losses_and_laws_by_name_and_as_objects(simulated: Simulated) -> None:
    table = simulated(0.01)
    by_name = fit(table, "kaplan", loss="l2", bootstrap=0)
    assert fit(table, Kaplan(), loss=LeastSquares(), bootstrap=0).params == by_name.params
    assert by_name.objective == pytest.approx(0.5 * float((by_name.residuals**2).sum()))
    low = fit(table, loss="asymmetric", bootstrap=0)
    assert isinstance(low.loss, AsymmetricHuber) and (low.residuals > 0).mean() > 0.6
    assert fit(table, loss="l1", bootstrap=0).objective == pytest.approx(
        float(np.abs(fit(table, loss="l1", bootstrap=0).residuals).sum()), rel=1e-6
    )
    with pytest.raises(FitError, match="law must be one of chinchilla, tied"):
        fit(table, "chinchila")
    with pytest.raises(FitError, match="loss must be one of huber, l1, l2, asymmetric"):
        fit(table, loss="l3")


def test_frames_and_paths_are_tables_too(simulated: Simulated, tmp_path: Path) -> None:
    table = simulated(0.005)
    table.frame.to_csv(tmp_path / "runs.csv", index=False)
    one = fit(table, bootstrap=0).params
    assert fit(table.frame, bootstrap=0).params == one == fit(tmp_path / "runs.csv", bootstrap=0).params
    with pytest.raises(TableError, match="no column"):
        fit(table.frame[["N", "loss"]])


def test_standard_errors_of_ones_own_are_weights_and_those_of_a_ledger_are_not(simulated: Simulated) -> None:
    table, rng = simulated(0.0), np.random.default_rng(0)
    se = np.where(np.arange(30) % 2, 0.05, 0.001)
    frame = table.frame.assign(loss=table.loss * np.exp(se * rng.standard_normal(30)))
    frame["loss_se"] = se * frame["loss"]
    weighted, alike = fit(frame, bootstrap=0), fit(frame.drop(columns="loss_se"), bootstrap=0)
    assert weighted.rows.weight.mean() == pytest.approx(1) and np.ptp(weighted.rows.weight) > 1
    assert any("weighted by 1/(se^2 + s^2)" in note for note in weighted.notes)
    assert np.abs(weighted.residuals[::2]).mean() < 0.7 * np.abs(alike.residuals[::2]).mean()
    ledger = frame.rename(columns={"N": "N_total", "loss": "test_loss", "loss_se": "test_loss_se"}).assign(state="done")
    unweighted = fit(read_frame(ledger), bootstrap=0)
    assert (unweighted.rows.weight == 1).all() and unweighted.params == alike.params
    assert any("no weights" in note for note in unweighted.notes)


def test_seeds_say_how_noisy_a_run_is(simulated: Simulated) -> None:
    frames = [simulated(0.02, seed=seed).frame.assign(seed=seed) for seed in range(3)]
    fitted = fit(pd.concat(frames), bootstrap=0)
    assert fitted.seed_sd == pytest.approx(0.02, rel=0.25) and fitted.errors is not None
    assert any("between seeds" in note for note in fitted.notes) and (fitted.rows.weight == 1).all()


def test_checkpoints_of_a_run_are_drawn_together(simulated: Simulated) -> None:
    table, rng = simulated(0.0, sizes=12, lengths=6), np.random.default_rng(1)
    run = np.unique(table.N, return_inverse=True)[1]
    frame = table.frame.assign(loss=table.loss * np.exp(0.02 * rng.standard_normal(12)[run]))
    alone, together = (fit(read_frame(frame, **options), bootstrap=200) for options in ({}, {"cluster_col": "N"}))
    assert together.resampling == "pairs bootstrap of whole clusters, 12 of several rows" and together.clusters == 12
    assert together.se["E"] != alone.se["E"] and alone.resampling == "residual bootstrap"
    few = fit(read_frame(simulated(0.01).frame, cluster_col="N"), bootstrap=20)
    assert "6 clusters of several rows are too few" in few.resampling


def test_profiles_by_name(simulated: Simulated) -> None:
    fitted = fit(simulated(0.005), bootstrap=0)
    found = fitted.profile("a")
    low, high = found.interval
    assert found.estimate == pytest.approx(fitted.frontier.a) and low is not None and high is not None
    assert low < 0.37 / 0.71 < high
    assert fitted.profile("N", C=1e21).estimate == pytest.approx(fitted.optimal(1e21).N[0], rel=1e-6)
    with pytest.raises(FitError, match="has no 'gamma' to profile; it has A, B, E, alpha, beta, a, G"):
        fitted.profile("gamma")
    with pytest.raises(FitError, match="C must be positive"):
        fitted.profile("N", C=-1.0)


def test_words_for_a_terminal_and_a_notebook(simulated: Simulated) -> None:
    fitted = fit(simulated(0.01, sizes=2, lengths=4), bootstrap=20)
    text, page = fitted.summary(), fitted._repr_html_()
    for said in ("L = A/N^alpha + B/D^beta + E", "alpha", "warning few_runs", "starts"):
        assert said in text
    assert repr(fitted).startswith("Fit(chinchilla: 8 runs of simulated, a = ") and "\n" not in repr(fitted)
    assert "few_runs" in page and "<table" in page
    assert fitted.bootstrap["alpha"].tolist() == fitted.samples[:, 3].tolist()
    hostile = fit(read_frame(simulated(0.01).frame, source="<script>alert(1)</script>"), bootstrap=0)._repr_html_()
    assert "<script>" not in hostile and "&lt;script&gt;" in hostile


def test_warnings_come_most_serious_first(simulated: Simulated, table_of: Callable[..., RunTable]) -> None:
    ridge = np.geomspace(1e7, 1e10, 9)
    found = fit(
        table_of(ridge, 20 * ridge, 400 / ridge**0.3 + 2 + 0.001 * np.sin(np.arange(9))), bootstrap=100
    ).warnings
    order = [warning.code for warning in found]
    assert order[:3] == ["few_runs", "alpha_beta_not_separable", "exponent_unidentified"]
    assert order[-1] == "no_intervals"


def test_a_ledger_is_fitted_by_every_convention(simulated: Simulated) -> None:
    table = simulated(0.0)
    small = table.N[0] * 0.9
    frame = pd.DataFrame(
        {
            "N_total": table.N,
            "N_non_embedding": table.N - small,
            "N_matmul": table.N,
            "D": table.D,
            "test_loss": table.loss,
            "state": "done",
        }
    )
    message = {warning.code: warning.message for warning in fit(read_frame(frame), bootstrap=0).warnings}[
        "n_convention"
    ]
    assert "0.521 by N_total" in message and "0.521 by N_matmul" in message and "by N_non_embedding" in message


def test_a_long_table_is_resampled_in_blocks(simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sixnd.analysis.uncertainty.weights.RESAMPLES_AT_ONCE", 30 * 20)
    fitted = fit(simulated(0.005), bootstrap=50)
    assert fitted.samples.shape == (50, 5) and fitted.resampling == "wild bootstrap"
    assert len(np.unique(fitted.samples[:, 3])) == 50 and np.isfinite(fitted.samples).all()


def test_a_long_table_is_resampled_less_often_and_says_so(
    simulated: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sixnd.analysis.uncertainty.weights.MOST_REFITTED", 25)
    monkeypatch.setattr("sixnd.analysis.uncertainty.weights.ENOUGH_RESAMPLES", 30)
    fitted = fit(simulated(0.005), bootstrap=50)
    assert len(fitted.samples) == 30 and "30 resamples instead of 50" in fitted.resampling
    assert len(fit(simulated(0.005), bootstrap=30).samples) == 30
