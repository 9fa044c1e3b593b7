import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.table import TableError, read_table

GOOD = pd.DataFrame({"N": [1e6, 2e6, 3e6], "D": [1e8, 2e8, 3e8], "loss": [4.0, 3.5, 3.2], "mode": ["a", "b", "a"]})
LEDGER = [
    {"key": "c", "state": "done", "N_total": 300, "D": 3000, "test_loss": 3.3},
    {"key": "a", "state": "done", "N_total": 100, "D": 1000, "test_loss": 3.1},
    {"key": "b", "state": "diverged", "N_total": 200, "D": 2000, "test_loss": None},
    {"key": "d", "state": "planned", "N_total": 200, "D": 2000, "test_loss": None},
    {"key": "e", "state": "planned", "N_total": 200, "D": 2000, "test_loss": None},
]


def write_ledger(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE runs (key TEXT PRIMARY KEY, state TEXT, N_total INT, D INT, test_loss REAL)")
    connection.executemany("INSERT INTO runs VALUES (:key, :state, :N_total, :D, :test_loss)", LEDGER)
    connection.commit()
    return connection


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_reads_each_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"runs.{suffix}"
    {"csv": lambda: GOOD.to_csv(path, index=False), "parquet": lambda: GOOD.to_parquet(path)}.get(
        suffix, lambda: GOOD.to_json(path, orient="records", lines=True)
    )()
    table = read_table(path, where="mode == 'a'")
    assert table.N.tolist() == [1e6, 3e6] and table.loss.tolist() == [4.0, 3.2]
    assert table.frame["mode"].tolist() == ["a", "a"] and table.source == str(path) and table.set_aside == ()


def test_reads_a_ledger_while_it_is_written(tmp_path: Path) -> None:
    writer = write_ledger(tmp_path / "ledger.sqlite")
    writer.execute("INSERT INTO runs VALUES ('z', 'done', 1, 1, 1.0)")  # an open transaction
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LEDGER))
    for path in (tmp_path, tmp_path / "ledger.sqlite", tmp_path / "runs.jsonl"):
        table = read_table(path)
        assert table.N.tolist() == [100.0, 300.0] and table.loss.tolist() == [3.1, 3.3]  # sorted by key
        assert (table.n_col, table.d_col, table.loss_col) == ("N_total", "D", "test_loss")
        assert table.set_aside == ("1 run set aside: state is diverged", "2 runs set aside: state is planned")
    writer.rollback()
    writer.close()


def test_other_columns_and_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("params,tokens,nll\n1,10,3\n2,20,\n3,30,nan\n4,40,2\n")
    table = read_table(path, n_col="params", d_col="tokens", loss_col="nll")
    assert table.N.tolist() == [1, 4] and table.set_aside == ("2 runs set aside: no value in params, tokens or nll",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("N,D,loss\n1,2,3\n1,2,-3\n", "row 2, column loss: -3 is not a positive number"),
        ("N,D,loss\n1,2,3\n0,2,3\n", "row 2, column N: 0 is not"),
        ("N,D,loss\n1,2,3\n1,=1+1,3\n", r"row 2, column D: '=1\+1' is not"),
        ("N,D,loss\n<script>,2,3\nx,2,3\n", r"row 1, column N: '<script>' is not a positive number \(and 1 more\)"),
        ("N,D,loss\n1,inf,3\n", "column D: inf"),
        ("N,D,loss\n1,1e999,3\n", "column D"),
        ("N,D,loss\n1,2,\n", "no run is left"),
        ("N,D,loss\n", "no rows"),
        ("", "cannot be read as csv"),
        ("a,b\n1,2\n", "no column 'N'; the table has a, b"),
        ('N,D,loss\n1,2,"3\n', "cannot be read as csv"),
        ("N,D,loss\n1,2,3\n1,2,3,4,5\n", "cannot be read as csv"),
    ],
)
def test_bad_csv_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=says) as error:
        read_table(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl", "t.sqlite", "t.db", "t.xlsx", "t"])
def test_binary_garbage_in_any_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(TableError) as error:
        read_table(path)
    assert "\n" not in str(error.value)


def test_wrong_paths_and_filters(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(TableError, match=r"holds no ledger\.sqlite"):
        read_table(tmp_path)
    GOOD.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(TableError, match="no row of 3 satisfies"):
        read_table(tmp_path / "t.csv", where="N > 1e9")
    with pytest.raises(TableError, match="--where: there is no column x"):
        read_table(tmp_path / "t.csv", where="x > 1e9")
    (tmp_path / "t.jsonl").write_text('{"N": 1, "D": 1, "loss": 1}\n[1]\n')
    with pytest.raises(TableError, match="line 2 is not a JSON object"):
        read_table(tmp_path / "t.jsonl")
    (tmp_path / "u.jsonl").write_text('{"N": [1], "D": 1, "loss": 1}\n')
    with pytest.raises(TableError, match=r"column N: \[1\] is not"):
        read_table(tmp_path / "u.jsonl")


def test_ledger_without_a_finished_run(tmp_path: Path) -> None:
    connection = write_ledger(tmp_path / "ledger.sqlite")
    connection.execute("UPDATE runs SET state = 'running'")
    connection.commit()
    connection.close()
    with pytest.raises(TableError, match=r"no run is done yet \(5 runs set aside: state is running\)"):
        read_table(tmp_path)
