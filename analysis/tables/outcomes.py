"""Which runs of a table finished: those that diverged, failed or were cut short are set aside, with a line for each reason."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .columns import is_ledger
from .read import TableError, as_text, shown
from .units import Mask

STATES = ("state", "status", "outcome")
FINISHED = frozenset(
    ("done", "finished", "complete", "completed", "success", "succeeded", "successful", "ok", "converged")
)
UNFINISHED = frozenset((
    "diverged", "failed", "failure", "crashed", "crash", "error", "nan", "oom", "killed", "cancelled", "canceled", "aborted",
    "timeout", "preempted", "stopped", "censored", "truncated", "incomplete", "unfinished", "running", "planned", "pending", "queued",
))  # fmt: skip
FLAGS = ("diverged", "failed", "crashed", "censored")  # columns of their own: true or 1 sets the run aside
MOST_REASONS = 12


def finished(frame: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows of runs that finished, and why others were set aside.

    In a column state, status or outcome that says of some run that it is done, only such runs count; where it names only what went
    wrong, the others do. A ledger's rows come in the order of their key, so that a resumed sweep fits to the same numbers. Raises
    TableError when no run is left.
    """
    if is_ledger(frame) and "key" in frame.columns:
        frame = frame.sort_values("key", kind="stable", key=as_text)
    kept = np.ones(len(frame), dtype=np.bool_)
    reasons: list[str] = []
    for name in frame.columns:
        if name.lower() in STATES:
            word = as_text(frame[name]).fillna("unknown").str.strip()
            good = _kept(word.str.lower(), is_ledger(frame))
            counts = word[kept & ~good].value_counts().sort_index()
            reasons += [f"{count} {runs(count)} set aside: {name} is {shown(state)}" for state, count in counts.items()]
        elif name.lower() in FLAGS:
            good = ~as_text(frame[name]).str.lower().isin(["true", "1", "1.0", "yes"]).to_numpy(dtype=np.bool_)
            count = int((kept & ~good).sum())
            reasons += [f"{count} {runs(count)} set aside: {name}"] if count else []
        else:
            continue
        kept &= good
    if len(reasons) > MOST_REASONS:
        reasons = [*reasons[:MOST_REASONS], f"and runs of {len(reasons) - MOST_REASONS} more states"]
    if not kept.any():
        raise TableError(f"{source}: no run is done yet ({'; '.join(reasons)})")
    return frame[kept], reasons


def _kept(word: pd.Series, ledger: bool) -> Mask:
    good = word.isin(FINISHED).to_numpy(dtype=np.bool_)
    if ledger or good.any():
        return good
    return ~word.isin(UNFINISHED).to_numpy(dtype=np.bool_)


def runs(count: int) -> str:
    return "run" if count == 1 else "runs"
