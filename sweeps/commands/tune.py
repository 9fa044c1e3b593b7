"""The tuning ladder: `sixnd tune`."""

from __future__ import annotations

from .corpus import Corpora, console
from .sweep import Out


def tune(spec: str, *overrides: str, out: Out = None, corpora: Corpora = None, dry_run: bool = False) -> None:
    """Tune the learning rate (and the batch) on a few small models, and write the rule that the grid is trained by.

    Stop it with Ctrl-C or kill it; the same command goes on. Example: `sixnd tune demo corpus.validation_fraction=0.03`

    Parameters
    ----------
    spec
        A TOML file, or a preset's name (demo); its [tuning] table may say which rungs, D and learning rates.
    overrides
        key=value, such as tuning.max_extensions=2.
    dry_run
        Say what it would cost, and train nothing.
    """
    from ..session import executor_of, prepare, tuning_of
    from ..spec import SpecError

    session = prepare(spec, overrides, out, corpora)
    if session.sweep.tuning and session.sweep.tuning.rule:
        raise SpecError(
            f"{session.sweep.name}: tuning.rule = {session.sweep.tuning.rule!r}: tuned already; leave it out"
        )
    ladder = tuning_of(session)
    for line in ladder.cost().lines():
        console.print(line, markup=False)
    if not dry_run:
        ladder.train(executor_of(session.sweep, ladder.packing), console)
