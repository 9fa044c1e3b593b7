"""The table of runs: which columns, in which order, under which heading, and how their values read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..tables.table import RunTable
from .facts import shortened
from .numbers import count, flops

MOST_TROUBLES = 5
MOST_RUNS = 2000  # a page with more rows than this is slow to open
_NEVER = {"spec", "curve", "exact_match"}  # JSON: for programs


@dataclass(frozen=True)
class Cell:
    text: str
    sort: str  # what the column is sorted by: a number, text, or nothing
    exact: str = ""  # the full value where `text` is shorter


@dataclass(frozen=True)
class Heading:
    label: str
    numeric: bool


@dataclass(frozen=True)
class RunsView:
    summary: str  # "18 done, 1 diverged, 1 failed"
    same: tuple[tuple[str, str], ...]  # (label, value) of what does not differ between the runs
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]
    states: tuple[str, ...]  # of each row; "" in a table without states
    troubles: tuple[str, ...]  # a line for each run that ended with an error, the first few
    left_out: int


@dataclass(frozen=True)
class _Column:
    label: str
    show: Callable[[float], str] | None = None  # None: text
    always: bool = False  # a column of its own even where all runs agree


def _digits(spec: str, unit: str = "") -> Callable[[float], str]:
    return lambda value: format(value, spec) + unit


_COLUMNS = {
    "state": _Column("state", always=True),
    "key": _Column("run", always=True),
    "N": _Column("N", count, always=True),
    "N_total": _Column("N", count, always=True),
    "D": _Column("D", count, always=True),
    "C_6nd": _Column("6ND", flops),
    "test_loss": _Column("test loss", _digits(".3f"), always=True),
    "loss": _Column("loss", _digits(".3f"), always=True),
    "test_loss_se": _Column("± s.e.", _digits(".3f")),
    "accuracy": _Column("accuracy", _digits(".3f")),
    "test_loss_clean": _Column("on clean text", _digits(".3f")),
    "test_loss_dirty": _Column("on text also trained on", _digits(".3f")),
    "bits_per_byte": _Column("bits/byte", _digits(".3f")),
    "n_layers": _Column("layers", _digits(",.0f")),
    "d_model": _Column("width", _digits(",.0f")),
    "lr": _Column("peak LR", _digits(".3g")),
    "batch_tokens": _Column("batch, tokens", _digits(",.0f")),
    "seed": _Column("seed", _digits(".0f")),
    "tokens_per_s": _Column("tokens/s", count),
    "wall_s": _Column("time", _digits(",.1f", " s")),
    "C_exact": _Column("C exact", flops),
    "N_non_embedding": _Column("N, non-embedding", count),
    "N_matmul": _Column("N, matmul", count),
    "device": _Column("device"),
    "finished_at": _Column("finished"),
    "corpus": _Column("corpus"),
    "sixnd_version": _Column("sixnd"),
    "torch_version": _Column("torch"),
    "error": _Column("error", always=True),
}


def runs_view(runs: pd.DataFrame, table: RunTable) -> RunsView:
    """Every row of `runs`, whatever its state; columns that are empty are left out, those that never differ are told once."""
    shown = runs.head(MOST_RUNS)
    columns = _columns(table)
    names = [name for name in _ordered(shown, table) if not _blank(shown[name]).all()]
    same = [name for name in names if len(shown) > 1 and not columns[name].always and _constant(shown[name])]
    kept = [name for name in names if name not in same]
    cells = [[_cell(value, columns[name]) for value in shown[name].tolist()] for name in kept]
    states = tuple(str(state) for state in shown["state"]) if "state" in shown else ("",) * len(shown)
    return RunsView(
        summary=_summary(runs),
        same=tuple((columns[name].label, _cell(shown[name].iloc[0], columns[name]).text) for name in same),
        headings=tuple(Heading(columns[name].label, _numeric(shown[name], columns[name])) for name in kept),
        rows=tuple(zip(*cells, strict=True)),
        states=states,
        troubles=_troubles(runs, columns, table),
        left_out=len(runs) - len(shown),
    )


class _WithOthers(dict[str, _Column]):
    """The known columns; any other shows under its own name, numbers to four digits."""

    def __missing__(self, name: str) -> _Column:
        return _Column(name, _digits(",.4g"))


def _columns(table: RunTable) -> Mapping[str, _Column]:
    """The known columns, and those that the law was fitted to under the headings N, D and loss."""
    columns = _WithOthers(_COLUMNS)
    if table.n_col != "N_total" and "N_total" in table.frame:
        columns["N_total"] = _Column("N, total", count)
    for name, known in ((table.n_col, "N"), (table.d_col, "D"), (table.loss_col, "loss")):
        columns[name] = (
            _COLUMNS.get(name, replace(_COLUMNS[known], label=f"{known} ({name})"))
            if name != known
            else _COLUMNS[known]
        )
        columns[name] = replace(columns[name], always=True)
    return columns


def _ordered(runs: pd.DataFrame, table: RunTable) -> list[str]:
    first = ["state", table.n_col, table.d_col, "C_6nd", table.loss_col, f"{table.loss_col}_se", "bits_per_byte", "key"]
    order = dict.fromkeys([*first, *_COLUMNS, *map(str, runs.columns)])
    return [name for name in order if name in runs and name not in _NEVER]


def _summary(runs: pd.DataFrame) -> str:
    total = f"{len(runs):,} run{'' if len(runs) == 1 else 's'}"
    if "state" not in runs:
        return total
    return f"{total}: {', '.join(f'{n:,} {state}' for state, n in runs['state'].value_counts().items())}"


def _troubles(runs: pd.DataFrame, columns: Mapping[str, _Column], table: RunTable) -> tuple[str, ...]:
    """What went wrong, said above the table: the column of errors is far to the right."""
    if "error" not in runs or "state" not in runs:
        return ()
    ended = runs[~_blank(runs["error"])]
    lines = []
    for row in ended.head(MOST_TROUBLES).to_dict("records"):
        N, D = (_cell(row.get(name), columns[name]).text for name in (table.n_col, table.d_col))
        lines.append(f"{row['state']}: N {N}, D {D}: {row['error']}")
    if len(ended) > MOST_TROUBLES:
        lines.append(f"and {len(ended) - MOST_TROUBLES:,} more, in the column of errors")
    return tuple(lines)


def _blank(values: pd.Series) -> pd.Series:
    return values.isna() | (values.astype(str).str.strip() == "")


def _constant(values: pd.Series) -> bool:
    return len({str(value) for value in values}) == 1


def _numeric(values: pd.Series, column: _Column) -> bool:
    return column.show is not None and all(_number(value) is not None for value in values[~_blank(values)])


def _number(value: object) -> float | None:
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return float(value)
    return None


def _cell(value: object, column: _Column) -> Cell:
    number = _number(value)
    if value is None or value is pd.NA or value is pd.NaT or (number is not None and math.isnan(number)):
        return Cell("", "")
    if number is None or column.show is None:
        text = str(value)
        return Cell(shortened(text), text, text)
    return Cell(column.show(number), repr(number), f"{number:,.10g}")
