"""The commands about laws: fit, predict, compare, profile, report. They need a table of runs or a fit, and but for the report no torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .corpus import Corpora, console
from .options import PLAIN, Columns, JsonOut, LawName, output


def fit(
    table: Path,
    *,
    law: LawName = "chinchilla",
    loss: str = "huber",
    delta: float = 1e-3,
    bootstrap: int = 1000,
    seed: int = 0,
    columns: Columns = PLAIN,
    json_out: JsonOut = None,
) -> None:
    """Fit a law to a table of runs, L(N, D) = A/N^alpha + B/D^beta + E unless another is named.

    Example: `sixnd fit runs.csv --where "N < 1e9 and mode == 'train'" --json fit.json`

    Parameters
    ----------
    table
        .csv, .tsv, .parquet, .jsonl, .json, a sweep's folder or its ledger.
    loss
        Of log L: huber, l1, l2, or asymmetric (a run above the curve costs a third of one below).
    delta
        Where Huber's loss turns from square to linear.
    bootstrap
        Resamples for the intervals; 0 for none.
    seed
        Of the resamples.
    """
    from ...analysis.fit import fit as fit_law
    from ...analysis.tables.table import read_table
    from ..tables import print_fit

    runs = read_table(table, **asdict(columns))
    fitted = fit_law(runs, law, loss=loss, delta=delta, bootstrap=bootstrap, seed=seed)
    if json_out == "-":
        output(json_out, fitted.to_json(), "fit")
        return
    for line in runs.set_aside:
        console.print(line, markup=False)
    console.print(
        f"{fitted.n_runs} runs of {table}: N = {runs.n_col}, D = {runs.d_col}, loss = {runs.loss_col}", markup=False
    )
    for note in fitted.notes:
        console.print(note, markup=False)
    print_fit(console, fitted)
    if json_out is not None:
        output(json_out, fitted.to_json(), "fit")


def predict(
    fit_json: Path,
    *,
    table: Path | None = None,
    params: str | None = None,
    tokens: str | None = None,
    flops: float | None = None,
    json_out: JsonOut = None,
) -> None:
    """Predict the loss of a new run with its 95 % interval, or of every row of a table, or the best run for a budget.

    Example: `sixnd predict fit.json --table new.csv --json -`, or `... --params 1M --tokens 20M`, or `... --flops 1e15`

    Parameters
    ----------
    fit_json
        What `sixnd fit --json` wrote.
    table
        A table with columns N and D.
    params
        N, with --tokens.
    tokens
        D, with --params.
    flops
        C = 6ND, for the compute-optimal N and D.
    """
    from ...analysis.predict import load_fit, predict_at, predict_at_flops, predict_rows
    from ...analysis.tables.points import read_points
    from ..spec import SpecError, count_option
    from .law_tables import print_answer, print_predictions

    if [table is not None, flops is not None, params is not None or tokens is not None].count(True) != 1 or (
        flops is None and table is None and (params is None or tokens is None)
    ):
        raise SpecError("predict: give --table, or --params and --tokens, or --flops alone")
    law = load_fit(fit_json)
    if table is not None:
        N, D = read_points(table)
        rows = predict_rows(law, N, D)
        if json_out is None:
            print_predictions(console, law, rows)
        output(json_out, {"predictions": rows}, "predictions")
        return
    if flops is not None:
        answer = predict_at_flops(law, flops)
    else:
        answer = predict_at(law, float(count_option("--params", params)), float(count_option("--tokens", tokens)))
    if json_out is None:
        print_answer(console, answer)
    output(json_out, answer, "prediction")


def compare(table: Path, *, seed: int = 0, columns: Columns = PLAIN, json_out: JsonOut = None) -> None:
    """Say which law predicts best beyond the runs it was fitted to: each fitted up to some compute and scored on the rest.

    Example: `sixnd compare runs.csv`

    Parameters
    ----------
    table
        .csv, .tsv, .parquet, .jsonl, .json, a sweep's folder or its ledger.
    seed
        Of the resamples.
    """
    from ...analysis.fit import fit as fit_law
    from ...analysis.study import comparison, stack_weights
    from ...analysis.tables.table import read_table
    from .law_tables import print_comparison

    fitted = fit_law(read_table(table, **asdict(columns)), bootstrap=0, seed=seed)
    found, weights = comparison(fitted), stack_weights(fitted)
    if json_out is None:
        print_comparison(console, found, weights)
    output(json_out, found.to_json() | {"stack": weights}, "comparison")


def profile(
    table: Path,
    *,
    param: str = "a",
    flops: str | None = None,
    law: LawName = "chinchilla",
    loss: str = "huber",
    delta: float = 1e-3,
    columns: Columns = PLAIN,
    json_out: JsonOut = None,
) -> None:
    """Draw the profile likelihood of a parameter or of the frontier: how badly the runs fit where it is held at other values.

    Example: `sixnd profile runs.csv --param a`

    Parameters
    ----------
    table
        .csv, .tsv, .parquet, .jsonl, .json, a sweep's folder or its ledger.
    param
        A parameter of the law, or a, G, N*, D*, L* of its frontier.
    flops
        The budget of N*, D* and L*; ten times the largest run's by default.
    loss
        Of log L: huber, l1, l2, or asymmetric.
    delta
        Where Huber's loss turns from square to linear.
    """
    from ...analysis.budgets.budget import flops_of
    from ...analysis.fit import fit as fit_law
    from ...analysis.plain import plain_fields
    from ...analysis.tables.table import read_table
    from .law_tables import print_profile

    fitted = fit_law(read_table(table, **asdict(columns)), law, loss=loss, delta=delta, bootstrap=0)
    found = fitted.profile(param, None if flops is None else flops_of(flops).flops)
    if json_out is None:
        print_profile(console, found)
    output(json_out, plain_fields(found) | {"multimodal": found.multimodal}, "profile")


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
    from ..conclusion import conclude
    from ..results import analyse

    conclude(folder, analyse(folder, corpora, bootstrap), console)
