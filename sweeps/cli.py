"""The command line. Exit codes: 0 done, 2 the input is wrong (one line says what), 1 something failed (and what is safe)."""

from __future__ import annotations

import os
import sys
import time
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from .budget_cli import frontier, next_runs
from .corpus_cli import Corpora, console, corpus_app
from .ladder_cli import models_app
from .law_cli import compare, fit, predict, profile, report
from .model_cli import export, sample, train

app = App(
    name="sixnd",
    help="Train a grid of tiny transformers on public text and fit L(N, D) = A/N^alpha + B/D^beta + E.",
    help_format="markdown",
    print_error=False,
    exit_on_error=False,
)
app.command(corpus_app)
app.command(models_app)
for command in (train, sample, export, fit, predict, compare, profile, frontier, report):
    app.command(command)
app.command(next_runs, name="next")

Out = Annotated[Path | None, Parameter(name="--out", help="Folder of the sweep; sweeps-out/NAME by default.")]


@app.command
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
    from .session import prepare

    session = prepare(spec, overrides, out, corpora, console.print)
    console.print(session.table())
    console.print(session.forecast())


@app.command
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
    from .session import prepare, train_and_report

    train_and_report(prepare(spec, overrides, out, corpora, console.print), bootstrap, console)


@app.command
def demo(*, out: Out = None, corpora: Corpora = None) -> None:
    """The main job on the embedded text: 20 runs, the fitted law, the report. A few minutes on two cores.

    Example: `sixnd demo`
    """
    run("demo", out=out, corpora=corpora)


@app.command
def status(folder: Path) -> None:
    """Show the runs of a sweep: done, running (with loss and tokens/s), planned, failed.

    Example: `sixnd status sweeps-out/demo`

    Parameters
    ----------
    folder
        The sweep's folder.
    """
    from .ledger import open_ledger
    from .live import read_live
    from .tables import runs_table

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


def main() -> None:
    """Runs a command and turns what went wrong into one line and an exit code."""
    started = time.perf_counter()
    try:
        app(_bare_json(sys.argv[1:]))
    except CycloptsError as error:
        _end(2, " ".join(str(error).split()) or "see sixnd --help")
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _end(
            1,
            f"{error.strerror or error}: {error.filename or ''}; what is finished is safe, and the same command goes on",
        )
    except KeyboardInterrupt:
        passed = time.perf_counter() - started
        _end(1, f"stopped after {passed:.0f} s; what is finished is safe, and the same command goes on")
    except Exception as error:
        # Errors that a person can mend say their exit code themselves: importing all their classes would cost 2 s.
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        _end(code, str(error))


def _bare_json(arguments: list[str]) -> list[str]:
    """A --json without a value means --json -; a corpus command's --json names a file."""
    if arguments[:1] == ["corpus"]:
        return arguments
    bare = [a == "--json" and (b is None or b.startswith("--")) for a, b in zip_longest(arguments, arguments[1:])]
    return [part for a, alone in zip(arguments, bare, strict=True) for part in ([a, "-"] if alone else [a])]


def _end(code: int, message: str) -> None:
    for line in message.splitlines():
        print(f"sixnd: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
