"""Where a sweep stands: how many runs are done, what the others do, when it should end, what it has cost, and the law so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from ..train.progress import Progress
from .ledger.schema import FINAL, IS_FINAL, STATES
from .ledger.store import Ledger, open_ledger
from .live import read_live
from .lock import driver_at_work
from .show import seconds_in_words, short
from .tables import law_in_numbers, runs_table

MOST_ROWS = 60  # listed one by one; larger sweeps are shown by N and D
FEWEST_FITTED = 6  # runs of a law with five parameters
LIVE_BOOTSTRAP = 100
REFRESH_S = 1.0
MOST_ERRORS = 10


@dataclass(frozen=True)
class Status:
    """A sweep at one moment."""

    folder: Path
    states: Mapping[str, int]  # number of runs by state
    running: Mapping[str, Progress]  # by key
    flops_done: float  # 6ND of finished runs
    flops_planned: float  # and of all
    run_seconds: float  # wall-clock seconds of finished runs, over all workers
    flops_per_s: float | None  # of finished runs
    at_work: bool  # a driver holds the sweep
    errors: tuple[Mapping[str, Any], ...]
    grid: tuple[Mapping[str, Any], ...]  # by N and D: runs, done, the mean test loss
    rows: tuple[Mapping[str, Any], ...]  # every run, of a small sweep

    @property
    def n_runs(self) -> int:
        return sum(self.states.values())

    @property
    def n_done(self) -> int:
        return sum(self.states.get(state, 0) for state in FINAL)

    @property
    def seconds_left(self) -> float | None:
        """From the FLOPs left at the speed so far, on as many workers as are running; None where nothing says."""
        left = self.flops_planned - self.flops_done
        if not self.flops_per_s or not self.running or left <= 0:
            return None
        return left / self.flops_per_s / len(self.running)

    def to_json(self) -> dict[str, Any]:
        left = self.seconds_left
        return {
            "folder": str(self.folder),
            "states": dict(self.states),
            "driver_at_work": self.at_work,
            "flops_done": self.flops_done,
            "flops_planned": self.flops_planned,
            "worker_hours": self.run_seconds / 3600,
            "seconds_left": left,
            "running": {key: vars(progress) for key, progress in self.running.items()},
            "failed": [dict(row) for row in self.errors],
        }


def status_of(folder: Path) -> Status:
    """The sweep's status, in time that hardly grows with the number of its runs.

    Raises:
        LedgerError: no sweep in `folder`.
    """
    ledger = open_ledger(folder)
    try:
        states = ledger.by_state()
        small = sum(states.values()) <= MOST_ROWS
        total = _one(
            ledger,
            f"SELECT sum(C_6nd) AS planned, sum(CASE WHEN {IS_FINAL} THEN C_6nd END) AS done,"
            f" sum(CASE WHEN {IS_FINAL} THEN wall_s END) AS seconds FROM runs",
        )
        grid = (
            ()
            if small
            else ledger.connection.execute(
                "SELECT N_total, D, count(*) AS runs, sum(state = 'done') AS done, avg(test_loss) AS loss FROM runs"
                " GROUP BY N_total, D ORDER BY N_total, D"
            )
        )
        errors = ledger.connection.execute(
            "SELECT N_total, D, seed, state, error FROM runs WHERE state IN ('failed', 'diverged', 'censored')"
            f" ORDER BY N_total, D, seed LIMIT {MOST_ERRORS}"
        )
        done, seconds = total["done"] or 0.0, total["seconds"] or 0.0
        return Status(
            folder=folder,
            states={state: states[state] for state in STATES if state in states},
            running=read_live(folder / "live"),
            flops_done=done,
            flops_planned=total["planned"] or 0.0,
            run_seconds=seconds,
            flops_per_s=done / seconds if seconds else None,
            at_work=driver_at_work(folder),
            errors=tuple(dict(row) for row in errors),
            grid=tuple(dict(row) for row in grid),
            rows=tuple(ledger.rows()) if small else (),
        )
    finally:
        ledger.close()


def _one(ledger: Ledger, query: str) -> dict[str, Any]:
    return dict(ledger.connection.execute(query).fetchone())


@dataclass
class LawSoFar:
    """The fit of the runs that are done, made anew when more of them are."""

    folder: Path
    fitted_to: int = -1
    lines: list[str] = field(default_factory=list)

    def update(self, status: Status) -> list[str]:
        n_done = status.states.get("done", 0)
        if n_done >= FEWEST_FITTED and n_done != self.fitted_to:
            self.fitted_to, self.lines = n_done, _law(self.folder)
        return self.lines


def _law(folder: Path) -> list[str]:
    from ..analysis.fit import FitError, fit
    from ..analysis.summary import estimates
    from ..analysis.tables.table import TableError, read_table

    if _is_ladder(folder):
        return ["no law: cells were trained at several learning rates, as those of a tuning ladder are"]
    try:
        fitted = fit(read_table(folder), bootstrap=LIVE_BOOTSTRAP)
    except (FitError, TableError) as error:
        return [f"no law yet: {error}"]
    exponents = [row for row in estimates(fitted) if row[0].startswith(("alpha", "beta", "a "))]
    told = ", ".join(f"{name.split()[0]} {value} ({interval})" for name, value, interval in exponents)
    warned = f"; {len(fitted.warnings)} warnings, which `sixnd fit {folder}` names" if fitted.warnings else ""
    return [law_in_numbers(fitted), f"  95 % intervals: {told}{warned}"]


def _is_ladder(folder: Path) -> bool:
    """Whether some cell was trained at more than one learning rate: runs that show an optimum, not a law."""
    ledger = open_ledger(folder)
    try:
        cells = "SELECT 1 FROM runs GROUP BY N_total, D, seed HAVING count(DISTINCT lr) > 1"
        return bool(_one(ledger, f"SELECT EXISTS ({cells}) AS found")["found"])
    finally:
        ledger.close()


def status_lines(status: Status, law: list[str]) -> list[str]:
    """What stands below the table."""
    counts = ", ".join(f"{n:,} {state}" for state, n in status.states.items())
    lines = [f"{status.folder}: {counts}{'' if status.at_work else '; no driver is at work'}"]
    share = status.flops_done / status.flops_planned if status.flops_planned else 0.0
    cost = f"{status.flops_done:.2e} of {status.flops_planned:.2e} FLOPs (6ND) done, {share:.0%}, in {status.run_seconds / 3600:.2f} worker-hours"
    left = status.seconds_left
    lines.append(cost + ("" if left is None else f"; about {seconds_in_words(left)} left"))
    errors = [
        f"N {row['N_total']:,} D {row['D']:,}: {row['state']}: {row['error']}" for row in status.errors if row["error"]
    ]
    return [*lines, *errors, *law]


def status_view(status: Status, law: list[str]) -> RenderableType:
    """The table and the lines below it."""
    table = runs_table(status.rows, status.running) if status.rows else _grid_table(status)
    return Group(table, *status_lines(status, law))


def _grid_table(status: Status) -> Table:
    """A large sweep: of each N and D how many runs are done, and their mean test loss."""
    columns = sorted({row["D"] for row in status.grid})
    if len(columns) > 12:
        table = Table("N", "D", "runs", "done", "test loss", box=None, pad_edge=False)
        for row in status.grid[:MOST_ROWS]:
            loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
            table.add_row(short(row["N_total"]), short(row["D"]), str(row["runs"]), str(row["done"]), loss)
        if len(status.grid) > MOST_ROWS:
            table.add_row(f"and {len(status.grid) - MOST_ROWS} more cells")
        return table
    table = Table("N \\ D", *(short(d) for d in columns), box=None, pad_edge=False)
    cells = {(row["N_total"], row["D"]): row for row in status.grid}
    for n in sorted({row["N_total"] for row in status.grid})[:MOST_ROWS]:
        shown = []
        for d in columns:
            cell = cells.get((n, d))
            loss = "" if cell is None or cell["loss"] is None else f" {cell['loss']:.3f}"
            shown.append("" if cell is None else f"{cell['done']}/{cell['runs']}{loss}")
        table.add_row(short(n), *shown)
    return table


def watch(folder: Path, console: Console) -> None:
    """Redraws the status about once a second until the sweep is over and no driver is at work, or Ctrl-C."""
    law = LawSoFar(folder)
    try:
        with Live(console=console, refresh_per_second=4) as live:
            while True:
                status = status_of(folder)
                live.update(status_view(status, law.update(status)))
                if not status.at_work:
                    return
                time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        return
