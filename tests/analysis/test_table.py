import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sixnd.analysis.tables.table import TableError, read_table, table_of

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


@pytest.mark.parametrize("suffix", ["tsv", "json", "db", "columns.json", "pandas.json"])
def test_reads_the_other_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"runs.{suffix}"
    if suffix == "tsv":
        GOOD.to_csv(path, index=False, sep="\t")
    elif suffix == "db":
        with closing(sqlite3.connect(path)) as connection:
            GOOD.to_sql('my "runs"', connection, index=False)
    elif suffix == "columns.json":
        path.write_text(json.dumps(GOOD.to_dict(orient="list")))
    else:
        GOOD.to_json(path, orient="records" if suffix == "json" else "columns")
    table = read_table(path)
    assert table.N.tolist() == [1e6, 2e6, 3e6] and table.loss.tolist() == [4.0, 3.5, 3.2] and table.notes == ()
    assert table.cluster is None and table.se is None and table.seed_sd is None and table.unit_doubts == ()


def test_a_frame_is_a_table_and_stays_as_it_was() -> None:
    frame = GOOD.rename(columns={"N": " N "}).set_index("mode")
    table = table_of(frame, where="loss < 3.8", source="mine")
    assert table.N.tolist() == [2e6, 3e6] and table.source == "mine" and list(frame.columns) == [" N ", "D", "loss"]
    with pytest.raises(TableError, match="mine: a table is a pandas DataFrame, not dict"):
        table_of({"N": [1]}, "mine")  # type: ignore[arg-type]


def test_compute_stands_in_for_one_of_two() -> None:
    frame = GOOD.assign(C=6 * GOOD.N * GOOD.D)
    for lacking, other in (("D", "N"), ("N", "D")):
        table = table_of(frame.drop(columns=lacking))
        np.testing.assert_allclose(getattr(table, lacking), GOOD[lacking])
        np.testing.assert_allclose(table.frame[lacking], GOOD[lacking])  # the report shows the column
        assert table.notes == (f"{lacking} = C/6{other} with C from column C",)
    pf_days = table_of(frame.assign(**{"compute (PF-days)": frame.C / 8.64e19}).drop(columns=["C", "D"]))
    np.testing.assert_allclose(pf_days.D, GOOD.D)
    with pytest.raises(TableError, match="no column 'N'"):
        table_of(frame.drop(columns=["N", "D"]))
    with pytest.raises(TableError, match="D = C/6N is beyond any number"):
        table_of(frame.assign(N=1e-300, C=1e300).drop(columns="D"))


@pytest.mark.parametrize(
    ("N", "D", "loss"),
    [
        ("params", "tokens", "val_loss"),
        ("Parameters", "n_tokens", "test_loss"),
        ("num-params", "Training Tokens", "Loss"),
        ("N (parameters)", "tokens_seen", "loss (nats/token)"),
    ],
)
def test_common_names_are_recognised_and_said(N: str, D: str, loss: str) -> None:
    table = table_of(GOOD.set_axis([N, D, loss, "mode"], axis=1))
    assert table.N.tolist() == [1e6, 2e6, 3e6] and (table.n_col, table.d_col, table.loss_col) == (N, D, loss)
    expected = [f"column {name} was taken as {role}" for name, role in ((N, "N"), (D, "D"), (loss, "loss"))]
    assert list(table.notes) == expected


def test_a_doubtful_name_is_not_guessed() -> None:
    frame = GOOD.rename(columns={"loss": "val_loss"})
    with pytest.raises(TableError, match="several columns may be loss: val_loss, test_loss; say which with --loss-col"):
        table_of(frame.assign(test_loss=1.0))
    assert table_of(frame.assign(test_loss=1.0), loss_col="test_loss").loss.tolist() == [1, 1, 1]
    assert table_of(GOOD.assign(params=1, val_loss=1.0)).notes == ()  # N and loss themselves are there
    for other in ("train_loss", "loss (bits)", "loss_std", "perplexity", "lossy"):
        with pytest.raises(TableError, match="no column 'loss'"):
            table_of(GOOD.rename(columns={"loss": other}))
    with pytest.raises(TableError, match="no column 'D'"):
        table_of(GOOD.rename(columns={"D": "tokens_per_param"}))


@pytest.mark.parametrize("header", ["N (M)", "params_M", "params [millions]", "N in millions", "n_params (1e6)", "N-M"])
def test_units_in_headers_are_applied_and_said(header: str) -> None:
    frame = GOOD.assign(N=GOOD.N / 1e6).rename(columns={"N": header})
    table = table_of(frame)
    assert table.N.tolist() == [1e6, 2e6, 3e6]
    assert f"column {header} was multiplied by 1e+06, the unit in its header" in table.notes
    assert table_of(frame, n_col=header).N.tolist() == [1e6, 2e6, 3e6]
    assert table_of(frame, n_unit="1").N.tolist() == [1, 2, 3]


def test_units_in_cells_and_as_arguments() -> None:
    cells = ["400M", " 1.5B", "0.07b", "2e9", "1,200,000,000", "3 billion", "12T", "500k"]
    values = [4e8, 1.5e9, 7e7, 2e9, 1.2e9, 3e9, 1.2e13, 5e5]
    n = len(cells)
    table = table_of(pd.DataFrame({"N": cells, "D": [1e10] * n, "loss": np.linspace(2, 3, n)}))
    assert table.N.tolist() == pytest.approx(values) and "units in its cells" in table.notes[0]
    scaled = table_of(GOOD.assign(N=GOOD.N / 1e6, D=GOOD.D / 1e9), n_unit="M", d_unit="billions")
    assert scaled.N.tolist() == [1e6, 2e6, 3e6] and scaled.D.tolist() == pytest.approx([1e8, 2e8, 3e8])
    assert "column N was multiplied by 1e+06, as asked" in scaled.notes
    with pytest.raises(TableError, match="--d-unit: 'furlong' is not a unit; allowed are k, M, B, T"):
        table_of(GOOD, d_unit="furlong")
    with pytest.raises(TableError, match="column N: '7' in row 2 has no unit, and other rows have one"):
        table_of(GOOD.assign(N=["400M", "7", "1.5B"]))
    for cell in ("3,21", "1,2345", "1.000.000", "400X", "12M5", "0x10", "1,000,00"):
        with pytest.raises(TableError, match=r"column N: .* is not a positive number"):
            table_of(GOOD.assign(N=[cell, "1000000", "2000000"]))
    with pytest.raises(TableError, match="column loss: '3k' is not"):
        table_of(GOOD.assign(loss=["3k", "3", "2"]))


def test_other_units_are_suspected_and_not_applied() -> None:
    plain = GOOD.assign(N=[7e7, 4e8, 1e9], D=[1e10, 2e10, 4e10])
    assert table_of(plain).unit_doubts == ()
    millions = table_of(plain.assign(N=plain.N / 1e6))
    assert millions.N.tolist() == [70, 400, 1000] and len(millions.unit_doubts) == 1
    assert millions.unit_doubts[0].startswith("N from 70 to 1e+03 can hardly be parameters")
    assert "training tokens" in table_of(plain.assign(D=plain.D / 1e9)).unit_doubts[0]
    assert table_of(plain.assign(N=plain.N / 1e6), n_unit="1", d_unit="1").unit_doubts == ()
    C = 6 * plain.N * plain.D
    assert table_of(plain.assign(C=C * 1.3)).unit_doubts == ()
    assert "C is 10^-18 times 6ND" in table_of(plain.assign(C=C / 1e18)).unit_doubts[0]
    assert "beyond anything" in table_of(plain.assign(N=1e30)).unit_doubts[0]
    assert "a perplexity?" in table_of(plain.assign(loss=np.exp(plain.loss))).unit_doubts[0]
    assert "are all rows in one unit?" in " ".join(table_of(plain.assign(N=[70, 4e8, 1e9])).unit_doubts)


def test_only_finished_runs_count() -> None:
    for name, words in (("status", ["finished", "crashed", "Finished"]), ("State", [None, "diverged", None])):
        table = table_of(GOOD.assign(**{name: words, "loss": [4.0, np.inf, 3.2]}))
        assert table.N.tolist() == [1e6, 3e6] and table.set_aside == (f"1 run set aside: {name} is {words[1]}",)
    unknown = table_of(GOOD.assign(status=["done", "lost", "done"]))
    assert unknown.set_aside == ("1 run set aside: status is lost",)
    assert table_of(GOOD.assign(state=["CA", "NY", "CA"])).set_aside == ()  # no word of these says how a run ended
    table = table_of(GOOD.assign(diverged=[False, True, False], loss=[4.0, -1.0, 3.0]))
    assert table.set_aside == ("1 run set aside: diverged",)
    assert table_of(GOOD.assign(loss=[4.0, np.inf, 3.2])).set_aside == ("1 run set aside: loss is infinite",)
    with pytest.raises(TableError, match="no run is done yet"):
        table_of(GOOD.assign(status="failed"))


def test_names_and_conventions() -> None:
    table = table_of(GOOD.assign(run_id=["a", "=1+1\n\x1b[31m", "x" * 500], N_total=GOOD.N, N_matmul=[1, 2, None]))
    assert table.run_name(0) == "run 1 of the table, a (N = 1e+06, D = 1e+08)"
    assert table.run_name(1).startswith("run 2 of the table, =1+1??[31m (N") and len(table.run_name(2)) < 100
    assert list(table.conventions()) == ["N_total"]
