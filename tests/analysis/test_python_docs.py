"""The examples of docs/python.md and of the fit's own pages do what they say."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sixnd.analysis.tables.table import RunTable

DOCS = Path(__file__).parents[2] / "docs"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), flags=re.DOTALL)


def test_the_example_on_a_table_of_ones_own(
    simulated: Callable[..., RunTable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = simulated(0.005)
    frame = table.frame.rename(columns={"loss": "val_nats"})
    frame = frame.assign(size=frame.pop("N") / 1e6, **{"tokens (B)": frame.pop("D") / 1e9})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(examples()[0], found)
    assert "column size was multiplied by 1e+06" in capsys.readouterr().out
    assert found["low"] < found["loss"] < found["high"]  # type: ignore[operator]


def test_the_example_on_the_demos_ledger(
    simulated: Callable[..., RunTable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a ledger's export: no run is trained for it."""
    table = simulated(0.005)
    ledger = table.frame.rename(columns={"N": "N_total", "loss": "test_loss"}).assign(
        state="done", N_non_embedding=np.rint(table.N * 0.9), test_loss_se=0.01
    )
    ledger.to_json(tmp_path / "runs.jsonl", orient="records", lines=True)
    monkeypatch.chdir(tmp_path)
    exec(examples()[1].replace("sweeps-out/demo", "runs.jsonl").replace("2e14", "1e21"), {})
