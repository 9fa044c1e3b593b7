"""A grid of runs: `sixnd plan`, `run`, `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .corpus import Corpora, console
from .options import JsonOut, output

Budget = Annotated[
    str | None, Parameter(help="Shrink the grid to 2h, 90m or 1e18 FLOPs, dropping what tells least for its cost.")
]
FitFile = Annotated[
    str | None,
    Parameter(name="--fit", help="A fit.json whose law and noise the grid is judged under; the demo's by default."),
]
Noise = Annotated[float | None, Parameter(help="Standard deviation of log L between equal runs; 0.005 by default.")]
Out = Annotated[Path | None, Parameter(name="--out", help="Folder of the sweep; sweeps-out/NAME by default.")]


def plan(
    spec: str,
    *overrides: str,
    out: Out = None,
    corpora: Corpora = None,
    budget: Budget = None,
    fit: FitFile = None,
    noise: Noise = None,
    json_out: JsonOut = None,
) -> None:
    """Say what a sweep would train, how long it should take and what it will tell, and train nothing.

    Example: `sixnd plan demo tokens='["1M","2M","4M"]' --budget 10m`

    Parameters
    ----------
    spec
        A TOML file, or a preset's name (demo, laptop-hour, h100-hour, h100-day, cluster-8x8).
    overrides
        key=value, such as train.lr=3e-3.
    """
    from ..session import prepare
    from ..show import aloud, unheard

    say = unheard if json_out == "-" else aloud
    session = prepare(spec, overrides, out, corpora, say, budget=budget, fit=fit, noise=noise)
    if json_out is not None:
        output(json_out, session.document(), "plan")
    if json_out != "-":
        session.show(console)
        session.show_worth(console)


def run(
    spec: str,
    *overrides: str,
    out: Out = None,
    corpora: Corpora = None,
    budget: Budget = None,
    fit: FitFile = None,
    noise: Noise = None,
    bootstrap: int = 1000,
) -> None:
    """Train every run of a sweep that its ledger does not hold yet, then fit the law and write the report.

    Stop it with Ctrl-C or kill it; the same command goes on. Example: `sixnd run demo train.lr=4e-3 --out sweeps-out/lr4`

    Parameters
    ----------
    spec
        A TOML file, or a preset's name (demo, laptop-hour, h100-hour, h100-day, cluster-8x8).
    overrides
        key=value, such as train.lr=3e-3 or seeds=[0,1,2].
    bootstrap
        Resamples for the intervals.
    """
    from ..session import Session, prepare, train_and_report
    from ..trackers.following import following
    from .tune import tune

    def prepared() -> Session:
        return prepare(spec, overrides, out, corpora, budget=budget, fit=fit, noise=noise, to_train=True)

    session = prepared()
    if session.sweep.tuning and session.plan.rule is None:
        tune(spec, *overrides, out=out, corpora=corpora)
        session = prepared()
    with following(session.out, session.sweep.trackers, console.print):
        train_and_report(session, bootstrap, console)


def demo(*, out: Out = None, corpora: Corpora = None) -> None:
    """The main job on the embedded text: 20 runs, the fitted law, the report. A few minutes on two cores.

    Example: `sixnd demo`
    """
    run("demo", out=out, corpora=corpora)
