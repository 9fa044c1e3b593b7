"""The report's table of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sixnd.analysis.report.tables import MOST_RUNS, runs_view
from sixnd.analysis.tables.table import RunTable

from tests.simulated import as_table, small_ledger


def test_table_of_runs_shows_every_state_and_what_went_wrong() -> None:
    runs = small_ledger()
    runs.loc[[3, 7], "state"] = ["diverged", "failed"]
    runs.loc[[3, 7], "error"] = ["loss is not finite", "killed"]
    runs.loc[[3, 7], "test_loss"] = np.nan
    view = runs_view(runs, as_table(small_ledger()))
    assert view.summary == "20 runs: 18 done, 1 diverged, 1 failed"
    assert view.troubles == ("diverged: N 25k, D 4.0M: loss is not finite", "failed: N 55k, D 4.0M: killed")
    assert view.states[3] == "diverged" and len(view.rows) == 20
    labels = [heading.label for heading in view.headings]
    assert labels[:5] == ["state", "N", "D", "6ND", "test loss"]
    assert "spec" not in labels and ("torch", "2.13.0") in view.same
    cell = view.rows[0][1]
    assert (cell.text, float(cell.sort), cell.exact) == ("25k", 25184.0, "25,184")
    assert view.rows[3][4].text == view.rows[3][4].sort == ""


def test_table_of_a_foreign_file_keeps_its_columns_and_names_those_used() -> None:
    frame = pd.DataFrame(
        {"who": list("abcdefgh"), "size": np.geomspace(1e6, 1e8, 8), "D": np.geomspace(1e8, 1e9, 8), "y": 3.0}
    )
    table = RunTable(
        frame["size"].to_numpy(), frame["D"].to_numpy(), frame["y"].to_numpy(), frame, "x.csv", "size", "D", "y"
    )
    view = runs_view(frame, table)
    assert [heading.label for heading in view.headings] == ["N (size)", "D", "loss (y)", "who"]
    assert view.rows[0][0].text == "1.0M"


def test_very_long_table_says_how_much_it_leaves_out() -> None:
    view = runs_view(pd.concat([small_ledger()] * (MOST_RUNS // 20 + 1)), as_table(small_ledger()))
    assert len(view.rows) == MOST_RUNS and view.left_out == 20
