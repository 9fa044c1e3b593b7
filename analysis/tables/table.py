"""Run tables: one row per finished run, from a file of many formats, a sweep's ledger or a data frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..laws import FLOPS_PER_PARAMETER_AND_TOKEN
from .columns import Column, find_column, is_ledger, missing
from .outcomes import finished, runs
from .read import TableError as TableError
from .read import checked, read_frame, shown
from .repeats import RUN_NAMES, clusters, seed_noise, standard_errors
from .units import doubts, numbers, unit_factor
from .where import WhereError, select_rows

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

CONVENTIONS = ("N_total", "N_non_embedding", "N_matmul")


@dataclass(frozen=True)
class RunTable:
    """Runs to fit a law on. `N` parameters, `D` training tokens, `loss` nats per token: float64 arrays of shape (n,), all positive."""

    N: Array
    D: Array
    loss: Array
    frame: pd.DataFrame  # every column of the kept rows, in the same order
    source: str  # the path as given
    n_col: str  # the columns really used, e.g. N_total in a ledger
    d_col: str
    loss_col: str
    set_aside: tuple[str, ...] = ()  # one plain line per reason, e.g. "2 runs set aside: state is diverged"
    notes: tuple[str, ...] = ()  # what was recognised or converted, e.g. "params (M): values were multiplied by 1e+06"
    unit_doubts: tuple[str, ...] = ()  # what looks as if it were in another unit; nothing is rescaled on a guess
    cluster: Labels | None = (
        None  # (n,) from 0: rows of one label are copies or checkpoints of one run; None: all independent
    )
    se: Array | None = (
        None  # (n,) standard errors of log L; sixnd's own are of the test set, and most of them the runs share
    )
    seed_sd: float | None = None  # pooled standard deviation of log L between seeds at one N and D
    seed_df: int = 0  # its degrees of freedom

    def run_name(self, row: int) -> str:
        """How a message names row `row`, counted from 0: its place in the table, its own name if there is one, N and D."""
        column = next((name for name in RUN_NAMES if name in self.frame.columns), None)
        own = "" if column is None else f", {shown(self.frame[column].iloc[row])}"
        return f"run {row + 1} of the table{own} (N = {self.N[row]:.3g}, D = {self.D[row]:.3g})"

    def conventions(self) -> dict[str, Array]:
        """N (n,) by each of N_total, N_non_embedding and N_matmul that the table has for every run."""
        found = {}
        for name in CONVENTIONS:
            if name in self.frame.columns:
                column = numbers(self.frame[name], counts=True, factor=None, what=self.source)
                if not (column.wrong | np.isnan(column.values)).any():
                    found[name] = column.values
        return found


class Options(TypedDict, total=False):
    """How a table is read: the arguments of `read_table` and `table_of`."""

    where: str | None  # a row filter such as "mode == 'train' and N < 1e9"
    n_col: str  # column of parameters; by default N or a common name of it
    d_col: str  # column of training tokens
    c_col: str  # column of training FLOPs, used only where there is no D (D = C/6N) or no N
    loss_col: str  # column of the loss in nats per token
    n_unit: str | None  # "M" if the column counts millions; "1" for single parameters; by default what the header says
    d_unit: str | None
    c_unit: str | None
    cluster_col: str | None  # rows of one value are not independent; by default copies and checkpoints are recognised
    se_col: str | None  # column of the standard error of the loss; by default LOSS_se or LOSS_lo95 and LOSS_hi95


def read_table(path: str | Path, **options: Unpack[Options]) -> RunTable:
    """The runs of a file that can be fitted, with what was assumed, what was set aside and why. See `table_of`. Raises TableError."""
    frame, notes = read_frame(Path(path))
    return _table(frame, str(path), notes, options)


def table_of(frame: pd.DataFrame, source: str = "frame", **options: Unpack[Options]) -> RunTable:
    """The runs of a data frame that can be fitted; `source` names it in messages.

    A common name of a column (params, tokens, val_loss) is recognised where only one column has such a name, a unit in a header
    ("tokens (B)") is applied, and both are said in `notes`. In a ledger or its export (columns N_total, test_loss, state) N stands for
    N_total (tied embeddings: every parameter multiplies) and loss for test_loss, and rows are sorted by key. Without D (or N) it is
    C/6N (C/6D). Runs that did not finish, rows without a value and infinite losses are set aside; anything else that is not a positive
    finite number is refused. Raises TableError.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TableError(f"{source}: a table is a pandas DataFrame, not {type(frame).__name__}; read_table reads files")
    return _table(frame, source, [], options)


def _table(frame: pd.DataFrame, source: str, notes: list[str], options: Options) -> RunTable:
    frame = _chosen(checked(frame, source), options.get("where"), source)
    used = _columns(frame, options, source)
    frame, set_aside = finished(frame, source)
    values = {role: _values(frame, role, column, options, source, notes) for role, column in used.items()}
    diverged = np.isposinf(values["loss"])
    if diverged.any():
        set_aside.append(f"{_runs(diverged)} set aside: {shown(used['loss'].name)} is infinite")
    absent = np.logical_or.reduce([np.isnan(column) for column in values.values()])
    if absent.any():
        names = [shown(column.name) for column in used.values()]
        set_aside.append(f"{_runs(absent)} set aside: no value in {', '.join(names[:-1])} or {names[-1]}")
    kept = ~(diverged | absent)
    if not kept.any():
        raise TableError(f"{source}: no run is left ({'; '.join(set_aside) or 'the table is empty'})")
    frame = frame[kept].reset_index(drop=True)
    values = {role: column[kept] for role, column in values.items()}
    for role, other in (("N", "D"), ("D", "N")):
        if role not in values:
            with np.errstate(over="ignore", under="ignore"):
                values[role] = values["C"] / FLOPS_PER_PARAMETER_AND_TOKEN / values[other]
            if not (np.isfinite(values[role]) & (values[role] > 0)).all():
                raise TableError(
                    f"{source}: {role} = C/6{other} is beyond any number; {shown(used['C'].name)} is in FLOPs"
                )
            frame[role] = values[role]
            notes.append(f"{role} = C/6{other} with C from column {shown(used['C'].name)}")
    N, D, loss = values["N"], values["D"], values["loss"]
    cols = {role: used[role].name if role in used else role for role in ("N", "D", "loss")}
    cluster, repeated = clusters(frame, N, D, loss, options.get("cluster_col"), source)
    se, errors = standard_errors(frame, loss, cols["loss"], options.get("se_col"), source)
    seed_sd, seed_df = seed_noise(frame, N, D, loss)
    stated = is_ledger(frame) or (options.get("n_unit") and options.get("d_unit"))
    return RunTable(
        N, D, loss, frame, source, cols["N"], cols["D"], cols["loss"],
        set_aside=tuple(set_aside),
        notes=(*notes, *repeated, *errors),
        unit_doubts=() if stated else doubts(N, D, loss, _compute(frame, options), list(cols.values())),
        cluster=cluster,
        se=se,
        seed_sd=seed_sd,
        seed_df=seed_df,
    )  # fmt: skip


def _chosen(frame: pd.DataFrame, where: str | None, source: str) -> pd.DataFrame:
    if where is None:
        return frame
    try:
        chosen = select_rows(frame, where)
    except WhereError as error:
        raise TableError(f"--where: {error}") from error
    if not chosen.any():
        raise TableError(f"{source}: no row of {len(frame)} satisfies --where {where!r}")
    return frame[chosen]


def _columns(frame: pd.DataFrame, options: Options, source: str) -> dict[str, Column]:
    """The columns of N, D and loss; where N or D is lacking, that of C as well."""
    asked = {"N": options.get("n_col", "N"), "D": options.get("d_col", "D"), "loss": options.get("loss_col", "loss")}
    found = {role: find_column(frame, role, name, source) for role, name in asked.items()}
    used = {role: column for role, column in found.items() if column is not None}
    lacking = [role for role in asked if role not in used]
    compute = find_column(frame, "C", options.get("c_col", "C"), source) if lacking in (["N"], ["D"]) else None
    if compute is not None:
        return used | {"C": compute}
    if lacking:
        raise missing(frame, lacking[0], source)
    return used


def _values(frame: pd.DataFrame, role: str, column: Column, options: Options, source: str, notes: list[str]) -> Array:
    """The column as floats (n,), NaN where the table has no value; a loss may be infinite, anything else not positive is refused."""
    if column.note:
        notes.append(column.note)
    given = {"N": options.get("n_unit"), "D": options.get("d_unit"), "C": options.get("c_unit")}.get(role)
    factor = unit_factor(given, f"--{role.lower()}-unit") if given else column.factor
    cells, name = frame[column.name], shown(column.name)
    read = numbers(cells, counts=role != "loss", factor=factor, what=f"{source}: column {name}")
    if factor not in (None, 1.0):
        notes.append(f"column {name} was multiplied by {factor:g}, {'as asked' if given else 'the unit in its header'}")
    if read.scaled:
        notes.append(f"column {name} was read with the units in its cells (k, M, B, T)")
    wrong = read.wrong & ~np.isposinf(read.values) if role == "loss" else read.wrong
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        value = cells.iloc[first].item() if isinstance(cells.iloc[first], np.generic) else cells.iloc[first]
        more = f" (and {wrong.sum() - 1} more)" if wrong.sum() > 1 else ""
        raise TableError(
            f"{source}: row {int(cells.index[first]) + 1}, column {name}: {repr(value)[:60]} is not a positive number{more}"
        )
    return read.values


def _compute(frame: pd.DataFrame, options: Options) -> Array | None:
    """A column C beside N and D, in FLOPs, to check their units by; None without one."""
    name = options.get("c_col", "C")
    if name not in frame.columns or not pd.api.types.is_numeric_dtype(frame[name]):
        return None
    return numbers(
        frame[name], counts=True, factor=unit_factor(options.get("c_unit") or "1", "--c-unit"), what=name
    ).values


def _runs(which: npt.NDArray[np.bool_]) -> str:
    count = int(which.sum())
    return f"{count} {runs(count)}"
