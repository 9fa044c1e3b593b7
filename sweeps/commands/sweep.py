"""A grid of runs: `sixnd plan`, `run`, `demo`, `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .corpus import Corpora, console

Out = Annotated[Path | None, Parameter(name="--out", help="Folder of the sweep; sweeps-out/NAME by default.")]


def plan(spec: str, *overrides: str, out: Out = None, corpora: Corpora = None) -> None:
    """Say what a sweep would train and how long it should take, and train nothing.

    Example: `sixnd plan demo tokens='["1M","2M","4M"]'`

    Parameters
    ----------
    spec
        A TOML file, or a preset's name (demo).
    overrides
        key=value, such as train.lr=3e-3.
    """
    from ..session import prepare

    session = prepare(spec, overrides, out, corpora, console.print)
    console.print(session.table())
    console.print(session.forecast())


def run(spec: str, *overrides: str, out: Out = None, corpora: Corpora = None, bootstrap: int = 1000) -> None:
    """Train every run of a sweep that its ledger does not hold yet, then fit the law and write the report.

    Stop it with Ctrl-C or kill it; the same command goes on. Example: `sixnd run demo train.lr=4e-3 --out sweeps-out/lr4`

    Parameters
    ----------
    spec
        A TOML file, or a preset's name (demo).
    overrides
        key=value, such as train.lr=3e-3 or seeds=[0,1,2].
    bootstrap
        Resamples for the intervals.
    """
    from ..session import prepare, train_and_report

    train_and_report(prepare(spec, overrides, out, corpora, console.print), bootstrap, console)


def demo(*, out: Out = None, corpora: Corpora = None) -> None:
    """The main job on the embedded text: 20 runs, the fitted law, the report. A few minutes on two cores.

    Example: `sixnd demo`
    """
    run("demo", out=out, corpora=corpora)


def status(folder: Path) -> None:
    """Show the runs of a sweep: done, running (with loss and tokens/s), planned, failed.

    Example: `sixnd status sweeps-out/demo`

    Parameters
    ----------
    folder
        The sweep's folder.
    """
    from ..ledger.store import open_ledger
    from ..live import read_live
    from ..tables import runs_table

    ledger = open_ledger(folder)
    rows = ledger.rows()
    ledger.close()
    console.print(runs_table(rows, read_live(folder / "live")))
    counts = {
        state: sum(row["state"] == state for row in rows)
        for state in ("done", "running", "planned", "diverged", "failed")
    }
    console.print(f"{folder}: " + ", ".join(f"{n} {state}" for state, n in counts.items() if n))
    for row in rows:
        if row["error"]:
            console.print(f"N {row['N_total']:,} D {row['D']:,}: {row['state']}: {row['error']}", markup=False)
