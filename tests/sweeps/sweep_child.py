"""Runs a small sweep in its own process, so that a test can kill it: python -m tests.sweeps.sweep_child CORPORA HASH OUT."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from sixnd.sweeps.driver import Interrupted, run_sweep
from sixnd.sweeps.executors.local import LocalExecutor
from sixnd.sweeps.planning.plan import make_plan
from sixnd.sweeps.spec import SweepSpec, TrainSettings
from sixnd.train.corpus.build import open_corpus

from tests.conftest import tiny_spec


def small_sweep() -> SweepSpec:
    settings = TrainSettings(context=16, batch_tokens=16, precision="fp32")
    return SweepSpec(
        name="t",
        corpus=tiny_spec(),
        tokens=[1600, 3200, 6400],
        shapes=[(1, 32), (2, 48)],
        seeds=[0, 1],
        train=settings,
    )


def main(corpora: str, corpus: str, out: str, hours: str = "") -> None:
    sweep = small_sweep()
    plan = make_plan(sweep, open_corpus(corpus, Path(corpora)))
    try:
        run_sweep(sweep, plan, Path(out), Path(corpora), partial(LocalExecutor, 2), {}, float(hours) if hours else None)
    except Interrupted as end:
        print(end)
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
