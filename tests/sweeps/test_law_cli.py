"""The commands about laws, on a table of one's own: fit, predict, compare, profile, frontier, next."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.command import sixnd

COMMANDS = ("fit", "predict", "compare", "profile", "frontier", "next", "report")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table in units of its own, mine.csv, and its fit, fit.json."""
    folder, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    with (folder / "mine.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["size", "tokens (B)", "nats"])
        for n in (1.0, 3.0, 10.0, 30.0):
            for d in (0.1, 0.3, 1.0, 3.0, 10.0):
                loss = 400 / (n * 1e6) ** 0.34 + 410 / (d * 1e9) ** 0.28 + 1.69
                rows.writerow([n, d, loss * float(np.exp(rng.normal(0, 2e-3)))])
    done = sixnd("fit", "mine.csv", *COLUMNS, "--bootstrap", "200", "--json", "fit.json", cwd=folder)
    for said in ("column size was multiplied by 1e+06", "tokens (B)", "intervals: ", " bootstrap", "starts"):
        assert said in done.stdout
    (folder / "new.csv").write_text("N,D\n1e7,1e9\n1e9,2e10\n")
    return folder


COLUMNS = ("--n-col", "size", "--n-unit", "M", "--d-col", "tokens (B)", "--loss-col", "nats")


def test_a_table_of_predictions_is_json_and_nothing_else(home: Path) -> None:
    document = json.loads(sixnd("predict", "fit.json", "--table", "new.csv", "--json", "-", cwd=home).stdout)
    assert list(document) == ["predictions"]
    inside, far = document["predictions"]
    assert list(inside) == ["N", "D", "loss", "lo95", "hi95"] and (far["N"], far["D"]) == (1e9, 2e10)
    truth = 400 / 1e7**0.34 + 410 / 1e9**0.28 + 1.69
    assert inside["lo95"] < truth < inside["hi95"] and inside["loss"] == pytest.approx(truth, rel=0.01)
    assert far["lo95"] < 400 / 1e9**0.34 + 410 / 2e10**0.28 + 1.69 < far["hi95"]
    shown = sixnd("predict", "fit.json", "--table", "new.csv", cwd=home).stdout
    assert "1B" in shown and "1 of 2 points lie outside" in shown
    assert (
        "predictions: p.json" in sixnd("predict", "fit.json", "--table", "new.csv", "--json", "p.json", cwd=home).stdout
    )
    assert json.loads((home / "p.json").read_text()) == document


def test_single_predictions_keep_their_forms(home: Path) -> None:
    at = json.loads(sixnd("predict", "fit.json", "--params", "10M", "--tokens", "1B", "--json", cwd=home).stdout)
    table = json.loads(sixnd("predict", "fit.json", "--table", "new.csv", "--json", cwd=home).stdout)["predictions"][0]
    assert [at[name] for name in table] == list(table.values())
    best = json.loads(sixnd("predict", "fit.json", "--json", "--flops", "1e17", cwd=home).stdout)
    assert 6 * best["N_opt"] * best["D_opt"] == pytest.approx(1e17) and best["lo95"] < best["loss"] < best["hi95"]


def test_a_fit_by_another_law_and_loss(home: Path) -> None:
    printed = sixnd(
        "fit", "mine.csv", *COLUMNS, "--law", "tied", "--loss", "l2", "--bootstrap", "20", "--json", "-", cwd=home
    ).stdout
    document = json.loads(printed)
    assert document["law"] == "tied" and document["loss"] == {"name": "l2"} and len(document["samples"][0]) == 4
    shown = sixnd("fit", "mine.csv", *COLUMNS, "--law", "loglinear", "--bootstrap", "0", cwd=home).stdout
    assert "L = K/(N^alpha D^beta)" in shown and "N*" not in shown


def test_compare_says_which_law_wins(home: Path) -> None:
    shown = sixnd("compare", "mine.csv", *COLUMNS, cwd=home).stdout
    assert ("no law clearly wins: the score of " in shown) != (
        " wins: the score of " in shown.replace("clearly wins", "")
    )
    assert "% worse than that of " in shown and "predictions stack " in shown
    document = json.loads(sixnd("compare", "mine.csv", *COLUMNS, "--json", "-", cwd=home).stdout)
    scores = [law["score"] for law in document["laws"]]
    assert scores == sorted(scores) and {"chinchilla", "kaplan", "loglinear", "stack"} <= {
        law["law"] for law in document["laws"]
    }
    assert sum(document["stack"].values()) == pytest.approx(1)


def test_profile_draws_its_interval(home: Path) -> None:
    document = json.loads(sixnd("profile", "mine.csv", *COLUMNS, "--param", "alpha", "--json", cwd=home).stdout)
    low, high = document["interval"]
    assert low < 0.34 < high and document["multimodal"] is False and document["grid"][0] < low
    shown = sixnd("profile", "mine.csv", *COLUMNS, "--param", "N", "--flops", "1e18", cwd=home).stdout
    assert "N* = " in shown and "95 % interval by profile likelihood" in shown and "outside" in shown


def test_frontier_prices_budgets(home: Path) -> None:
    arguments = ("--budget", "$2", "--budget", "1 GPU-hours", "--flops", "1e18")
    shown = sixnd("frontier", "fit.json", *arguments, cwd=home).stdout
    assert "2 dollars a GPU-hour" in shown and "data wall, low" in shown and "1.5x" in shown
    document = json.loads(sixnd("frontier", "fit.json", *arguments, "--mfu", "0.2", "--json", cwd=home).stdout)
    flops = {point["budget"]["given"]: point["C"] for point in document["points"]}
    assert flops["1 GPU-hours"] == pytest.approx(989.4e12 * 0.2 * 3600) and flops["1e+18"] == 1e18
    own = json.loads(sixnd("frontier", "fit.json", "--unique-tokens", "1T", "--json", cwd=home).stdout)
    assert own["data_wall"]["low"]["unique_tokens"] == 1e12 and len(own["points"]) == 3


def test_next_runs_beat_a_plain_grid(home: Path) -> None:
    arguments = ("next", "mine.csv", *COLUMNS, "--flops", "1e18", "--target", "N", "--bootstrap", "50")
    document = json.loads(sixnd(*arguments, "--json", "-", cwd=home).stdout)
    assert document["runs"] and document["flops"] <= 1e18 and document["variance_ratio"] >= 1
    assert document["after"]["log_N"] < document["before"]["log_N"]
    shown = sixnd(*arguments, "--most-tokens", "1B", cwd=home).stdout
    assert "with these runs" in shown and "plain grid of" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "fit.json", "--table", "nowhere.csv"], "nowhere.csv: no such file"),
        (["predict", "fit.json", "--table", "bad.csv", "--json", "-"], "row 2, column D: 'x' is not a positive number"),
        (["predict", "fit.json", "--table", "mine.csv"], "mine.csv: there is no column 'N'"),
        (["predict", "fit.json", "--table", "new.csv", "--flops", "1e9"], "--flops alone"),
        (["predict", "fit.json", "--params", "1M"], "--params and --tokens"),
        (["predict", "mine.csv", "--flops", "1e9"], "mine.csv: not a fit written by"),
        (["fit", "mine.csv", *COLUMNS, "--law", "cubic"], "law must be one of chinchilla"),
        (["fit", "mine.csv", *COLUMNS, "--loss", "l7"], "loss must be one of huber, l1, l2, asymmetric"),
        (["fit", "mine.csv", *COLUMNS, "--n-unit", "dozen"], "--n-unit"),
        (["fit", "mine.csv", *COLUMNS, "--cluster-col", "X"], "there is no column 'X'"),
        (["compare", "bad.csv"], "bad.csv"),
        (["compare", "mine.csv", *COLUMNS, "--where", "size < 2"], "5 runs cannot fix five parameters"),
        (["profile", "mine.csv", *COLUMNS, "--param", "gamma"], "has no 'gamma' to profile"),
        (["profile", "mine.csv", *COLUMNS, "--flops", "much"], "budget 'much' is not understood"),
        (["frontier", "fit.json", "--budget", "a lot"], "budget 'a lot' is not understood"),
        (["frontier", "fit.json", "--mfu", "2"], "mfu is the share of the peak"),
        (["next", "mine.csv", *COLUMNS, "--flops", "10"], "afford no run"),
        (["next", "mine.csv", *COLUMNS, "--flops", "1e18", "--target", "b"], "--target"),
        (["next", "mine.csv", *COLUMNS], "--flops"),
    ],
)
def test_wrong_input_gets_one_line_and_code_2(home: Path, arguments: list[str], says: str) -> None:
    (home / "bad.csv").write_text("N,D\n1e6,1e8\n1e6,x\n")
    done = sixnd(*arguments, cwd=home, code=2)
    (line,) = done.stderr.strip().splitlines()
    assert says in line and line.startswith("sixnd: ") and not done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_at_once_with_an_example(command: str, tmp_path: Path) -> None:
    start = time.perf_counter()
    text = sixnd(command, "--help", cwd=tmp_path).stdout
    assert "Example: sixnd" in " ".join(text.split()) or "Example" in text
    assert "--json" in text or command == "report"
    heavy = "import sys; import sixnd.sweeps.cli; print([m for m in ('numpy', 'pandas', 'scipy', 'torch') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]" and time.perf_counter() - start < 30
