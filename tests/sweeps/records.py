"""Records of runs that were never trained, for executors that only pretend."""

from __future__ import annotations

from sixnd.sweeps.planning.plan import planned_row
from sixnd.train.record import RunRecord
from sixnd.train.spec import RunSpec

ENDED = {"state": "done", "test_loss": 3.0, "test_loss_se": 0.01, "wall_s": 0.1}
MADE = {"sixnd_version": "0", "torch_version": "0", "device": "none", "finished_at": "now"}


def record_of(run: RunSpec, **ended: object) -> RunRecord:
    """A finished run's, with `ended` in place of what is usual."""
    planned = {name: value for name, value in planned_row(run).items() if name != "tuned"}  # the ledger's alone
    return RunRecord.model_validate(planned | MADE | ENDED | ended)
