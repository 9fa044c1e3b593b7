"""The command line. Exit codes: 0 done, 2 the input is wrong (one line says what), 1 something failed (and what is safe)."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from .corpus_cli import Corpora, console, corpus_app
from .ladder_cli import models_app
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
for command in (train, sample, export):
    app.command(command)

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


@app.command
def fit(
    table: Path,
    *,
    where: str | None = None,
    delta: float = 1e-3,
    bootstrap: int = 1000,
    seed: int = 0,
    n_col: str = "N",
    d_col: str = "D",
    loss_col: str = "loss",
    json_out: Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True)] = None,
) -> None:
    """Fit L(N, D) = A/N^alpha + B/D^beta + E to a table of runs.

    Example: `sixnd fit runs.csv --where "N < 1e9 and mode == 'train'" --json fit.json`

    Parameters
    ----------
    table
        .csv, .parquet, .jsonl, a sweep's folder or its ledger.
    where
        Columns compared with constants, joined by and/or; only these rows are fitted.
    delta
        Where the Huber loss of log L turns from square to linear.
    bootstrap
        Resamples for the intervals; 0 for none.
    seed
        Of the resamples.
    n_col
        Column of parameters.
    d_col
        Column of training tokens.
    loss_col
        Column of the loss in nats per token.
    json_out
        Where the fit goes as JSON; - prints it, and nothing else.
    """
    from ..analysis.fit import fit as fit_law
    from ..analysis.table import read_table
    from .show import write_json
    from .tables import print_fit

    runs = read_table(table, where=where, n_col=n_col, d_col=d_col, loss_col=loss_col)
    fitted = fit_law(runs, delta=delta, bootstrap=bootstrap, seed=seed)
    if json_out == "-":
        print(json.dumps(fitted.to_json(), indent=1, allow_nan=False))
        return
    for line in runs.set_aside:
        console.print(line, markup=False)
    console.print(
        f"{fitted.n_runs} runs of {table}: N = {runs.n_col}, D = {runs.d_col}, loss = {runs.loss_col}", markup=False
    )
    print_fit(console, fitted)
    if json_out is not None:
        write_json(Path(json_out), fitted.to_json())
        console.print(f"fit: {json_out}", markup=False)


@app.command
def predict(
    fit_json: Path,
    *,
    params: str | None = None,
    tokens: str | None = None,
    flops: float | None = None,
    json_out: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Predict the loss of a model, or the best model for a budget.

    Example: `sixnd predict sweeps-out/demo/fit.json --params 1M --tokens 20M` or `... --flops 1e15 --json`

    Parameters
    ----------
    fit_json
        What `sixnd fit --json` wrote.
    params
        N, with --tokens.
    tokens
        D, with --params.
    flops
        C = 6ND, for the compute-optimal N and D.
    json_out
        Print JSON.
    """
    from ..analysis.predict import load_fit, predict_at, predict_at_flops
    from .spec import SpecError, count_option

    if (flops is None) == (params is None or tokens is None) or (flops is not None and (params or tokens)):
        raise SpecError("predict: give --params and --tokens, or --flops alone")
    law = load_fit(fit_json)
    if flops is not None:
        answer = predict_at_flops(law, flops)
    else:
        answer = predict_at(law, float(count_option("--params", params)), float(count_option("--tokens", tokens)))
    if json_out:
        print(json.dumps(answer, indent=1, allow_nan=False))
        return
    warnings = answer.pop("warnings")
    for name, value in answer.items():
        shown = f"{value:.6g}" if isinstance(value, float) else "none" if value is None else value
        console.print(f"{name:>20}: {shown}", markup=False)
    for warning in warnings if isinstance(warnings, list) else []:
        console.print(f"warning {warning['code']}: {warning['message']}", markup=False)


@app.command
def report(folder: Path, *, corpora: Corpora = None, bootstrap: int = 1000) -> None:
    """Fit the law again from a sweep's ledger and write its report anew.

    Example: `sixnd report sweeps-out/demo`

    Parameters
    ----------
    folder
        The sweep's folder.
    bootstrap
        Resamples for the intervals.
    """
    from .results import analyse
    from .session import conclude

    conclude(folder, analyse(folder, corpora, bootstrap), console)


def main() -> None:
    """Runs a command and turns what went wrong into one line and an exit code."""
    started = time.perf_counter()
    try:
        app(sys.argv[1:])
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


def _end(code: int, message: str) -> None:
    for line in message.splitlines():
        print(f"sixnd: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
