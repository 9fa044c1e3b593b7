"""Bad tables end in one clear line or in a warning, never in a traceback and never in a law that is silently wrong."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from sixnd.analysis import verdicts
from sixnd.analysis.fit import FitError, fit
from sixnd.analysis.tables.table import RunTable, TableError, read_table, table_of
from sixnd.sweeps.cli import main

Simulated = Callable[..., RunTable]


@pytest.fixture
def good(simulated: Simulated) -> pd.DataFrame:
    """30 runs of a known law."""
    return simulated(0.003).frame


def refused(path: Path, says: str) -> None:
    with pytest.raises((TableError, FitError), match=says) as error:
        fit(read_table(path), bootstrap=0)
    assert "\n" not in str(error.value) and str(path) in str(error.value) and error.value.exit_code == 2
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("loss", -3.0, r"row 8, column loss: -3\.0 is not a positive number"),
        ("loss", 0, r"row 8, column loss: 0"),
        ("loss", "three", "row 8, column loss: 'three' is not"),
        ("loss", "3,21", "row 8, column loss: '3,21' is not"),
        ("N", "=1+1", r"row 8, column N: '=1\+1' is not"),
        ("N", "<script>alert(1)</script>", "row 8, column N: '<script>"),
        ("D", "2024-05-01", "row 8, column D: '2024-05-01' is not"),
        ("D", np.inf, "row 8, column D: inf"),
        ("N", True, "row 8, column N: True"),
        ("N", "x" * 1_000_000, "row 8, column N: 'xxx"),
    ],
)
def test_a_bad_cell_is_named(good: pd.DataFrame, tmp_path: Path, column: str, value: object, says: str) -> None:
    bad = good.astype(object)
    bad.loc[7, column] = value
    bad.to_csv(tmp_path / "t.csv", index=False)
    refused(tmp_path / "t.csv", says.replace("True", "'True'"))
    bad.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    if value is not np.inf:  # JSON has none: pandas writes null
        refused(tmp_path / "t.jsonl", says)


@pytest.mark.parametrize("column", ["N", "D", "loss"])
def test_columns_of_other_kinds(good: pd.DataFrame, column: str) -> None:
    dates = pd.date_range("2024-01-01", periods=30)
    for values in (np.ones(30, dtype=bool), dates, dates - dates[0], np.ones(30) * 1j, [[1]] * 30, [b"1"] * 30):
        with pytest.raises(TableError, match=rf"row 1, column {column}: .* is not a positive number \(and 29 more\)"):
            table_of(good.assign(**{column: values}))
    assert table_of(good.assign(**{column: good[column].astype("category")})).N.tolist() == good.N.tolist()
    assert table_of(good.assign(**{column: good[column].map(str)})).loss.tolist() == good.loss.tolist()


def test_missing_and_infinite_losses_are_set_aside(good: pd.DataFrame, tmp_path: Path) -> None:
    for value, says in ((np.nan, "no value in N, D or loss"), ("NaN", "no value"), (np.inf, "loss is infinite")):
        bad = good.astype({"loss": object})
        bad.loc[7, "loss"] = value
        bad.to_csv(tmp_path / "t.csv", index=False)
        fitted = fit(read_table(tmp_path / "t.csv"), bootstrap=0)
        message = {warning.code: warning.message for warning in fitted.warnings}["rows_set_aside"]
        assert fitted.n_runs == 29 and "1 run set aside" in message and says in message


def test_tables_without_a_law(good: pd.DataFrame, tmp_path: Path) -> None:
    for bad, says in (
        (good.head(3), "3 runs cannot fix five parameters"),
        (good.assign(N=1e8), "N takes one value only in all 30 runs"),
        (good.assign(D=1e9), "D takes one value only in all 30 runs"),
        (good.assign(loss=3.0), "loss is the same in all 30 runs"),
        (good.head(0), "no rows"),
        (good.assign(loss=np.nan), r"no run is left \(30 runs set aside"),
    ):
        bad.to_csv(tmp_path / "t.csv", index=False)
        refused(tmp_path / "t.csv", says)


def test_absurd_sizes_are_said_and_leave_the_exponents(good: pd.DataFrame) -> None:
    table = table_of(good.assign(N=good.N * 1e30))
    assert "beyond anything that was ever trained" in table.unit_doubts[0]
    assert fit(table, bootstrap=0).frontier.a == pytest.approx(fit(table_of(good), bootstrap=0).frontier.a, rel=1e-4)
    with pytest.raises(TableError, match="column N: 1000"):
        table_of(good.assign(N=[10**400] * 30))


def test_a_million_rows() -> None:
    n = 1_000_000
    values = np.random.default_rng(0).uniform(1, 2, (3, n))
    names = np.where(np.arange(n) % 2, "<script>alert(1)</script>", '=HYPERLINK("x")')
    table = table_of(pd.DataFrame({"N": 1e8 * values[0], "D": 1e10 * values[1], "loss": values[2], "note": names}))
    assert len(table.N) == n and table.cluster is None and table.set_aside == ()


def test_hostile_names_do_no_harm(good: pd.DataFrame, tmp_path: Path) -> None:
    names = [
        "=cmd|' /C calc'!A0",
        "<script>alert(1)</script>",
        "\x1b[2J",
        "a\nb",
        "'; DROP TABLE runs;--",
        "{{7*7}}",
    ] * 5
    good.assign(run_id=names, **{"<img src=x>": 1, "=1+1": 2}).to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv", cluster_col="<img src=x>")
    assert fit(table, bootstrap=0).params == fit(table_of(good), bootstrap=0).params
    assert all(table.run_name(row).isprintable() for row in range(30))
    (tmp_path / "u.csv").write_text('"a\nb","\x1b[31mN",D\n1,2,3\n')
    refused(tmp_path / "u.csv", r"no column 'N'; the table has a\?b, \?\[31mN, D")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"", "cannot be read as csv: No columns"),
        ("t.csv", b"\n\n\n", "cannot be read as csv"),
        ("t.csv", b"N D loss\n1 2 3\n", "no column 'N'; the table has N D loss"),
        ("t.csv", b"N,D,loss,D\n1,2,3,4\n", "column D stands there more than once"),
        ("t.csv", b"N,D,loss\n1,2,3,4\n5,6,7,8\n", "its rows have more fields than its header"),
        ("t.csv", b"N,D,loss\n1,2,3\n1,2,3,4,5\n", "Expected 3 fields in line 3, saw 5"),
        ("t.csv", gzip.compress(b"N,D,loss\n1,2,3\n"), r"the file is compressed \(gzip\); unpack it first"),
        ("t.csv", b"PK\x03\x04rest", r"compressed \(zip"),
        ("t.csv", b"N,D,loss\n1,2,3\0\n", "it is a binary file"),
        ("t.csv", b"N," + b"x" * 300_000 + b",loss\n1,2,3\n", "no column 'D'; the table has N, xxx"),
        ("t.csv.gz", b"", "unknown kind of table '.gz'"),
        ("t.json", b'{"N": 1, "D": 2, "loss": 3}', "neither a list of objects nor an object of lists"),
        ("t.json", b'{"N": [1, 2], "D": [2], "loss": [3]}', "cannot be read as json: All arrays must be of the same length"),
        ("t.json", b"[1, 2]", "neither a list of objects"),
        ("t.json", b"[" * 100_000, "cannot be read as json"),
        ("t.json", b"[]", "no rows"),
        ("t.json", b'[{"N": 1, "D": {"a": 1}, "loss": 3}]', "column D: {'a': 1} is not"),
        ("t.jsonl", b'{"N": 1, "D": true, "loss": 3}', "column D: True is not"),
        ("t.jsonl", b'{"N": 1e999, "D": 1, "loss": 3}', "column N: inf is not"),
        ("t.db", b"", "there is no table `runs`; the file has none"),
    ],
)  # fmt: skip
def test_bad_files_in_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, says)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_delimiters_are_told(good: pd.DataFrame, tmp_path: Path, mark: str) -> None:
    good.to_csv(tmp_path / "t.csv", index=False, sep=mark)
    table = read_table(tmp_path / "t.csv")
    assert table.loss.tolist() == good.loss.tolist() and table.notes == (f"the delimiter is {mark!r}",)


def test_other_encodings_and_a_decimal_comma(good: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    noted = good.assign(note="é")
    for encoding, notes in (
        ("utf-8-sig", ()),
        ("utf-16", ()),
        ("latin-1", ("the file is not UTF-8; it was read as Latin-1",)),
    ):
        noted.to_csv(path, index=False, encoding=encoding)
        table = read_table(path)
        assert table.N.tolist() == good.N.tolist() and table.notes == notes and table.frame["note"][0] == "é"
    good.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    (tmp_path / "t.jsonl").write_text("\ufeff" + (tmp_path / "t.jsonl").read_text(), encoding="utf-8")
    assert len(read_table(tmp_path / "t.jsonl").N) == 30
    good.to_csv(path, index=False, sep=";", decimal=",")
    table = read_table(path)
    assert table.loss.tolist() == good.loss.tolist() and table.notes == (
        "the delimiter is ';'",
        "the decimal mark is ','",
    )


@pytest.mark.parametrize("cell", [b"\xff", [1], {"a": 1}, None, True, np.inf, pd.Timestamp("2024-01-01"), "<script>"])
def test_odd_cells_in_other_columns_do_no_harm(good: pd.DataFrame, cell: object) -> None:
    for column in ("run_id", "state", "seed", "lr", "spec", "loss_se", "note"):
        table = table_of(good.assign(**{column: pd.Series([cell] * 30, dtype=object)}))
        assert table.N.tolist() == good.N.tolist() and table.run_name(3).isprintable()
        verdicts.untuned(table.frame, table.N, table.D)
        verdicts.mixed_runs(table.frame)


def test_text_that_is_no_text_in_parquet(tmp_path: Path) -> None:
    offsets, letters = np.arange(7, dtype=np.int32).tobytes(), b"\xff" * 6
    names = pa.Array.from_buffers(pa.string(), 6, [None, pa.py_buffer(offsets), pa.py_buffer(letters)])
    numbers = [float(i + 1) for i in range(6)]
    parquet.write_table(
        pa.table({"N": numbers, "D": numbers, "loss": numbers, "run_id": names}), tmp_path / "t.parquet"
    )
    refused(tmp_path / "t.parquet", "cannot be read as parquet: .*UTF8")


def test_columns_given_twice_in_a_frame(good: pd.DataFrame) -> None:
    with pytest.raises(TableError, match="column loss stands there more than once"):
        table_of(pd.concat([good, good.loss], axis=1))
    with pytest.raises(TableError, match="no column 'N'"):
        table_of(good.set_axis(pd.MultiIndex.from_tuples([("a", "N"), ("a", "D"), ("b", "loss")]), axis=1))


def test_the_command_line_says_it_in_one_line(
    good: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good.assign(loss=-good.loss).to_csv(tmp_path / "negative.csv", index=False)
    good.head(3).to_csv(tmp_path / "three.csv", index=False)
    (tmp_path / "list.json").write_text(json.dumps([1, 2]))
    for path in (
        tmp_path / "negative.csv",
        tmp_path / "three.csv",
        tmp_path / "list.json",
        tmp_path,
        tmp_path / "none.csv",
    ):
        monkeypatch.setattr(sys, "argv", ["sixnd", "fit", str(path), "--bootstrap", "0"])
        with pytest.raises(SystemExit) as exit_:
            main()
        shown = capsys.readouterr()
        assert exit_.value.code == 2 and shown.out == ""
        assert shown.err.startswith(f"sixnd: {path}: ") and shown.err.count("\n") == 1
    command = [sys.executable, "-m", "sixnd.sweeps.cli", "fit", str(tmp_path / "negative.csv")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr and "and 29 more" in ended.stderr
