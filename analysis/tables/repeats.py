"""Runs that are not independent, and how noisy one run is: copies and checkpoints as clusters, standard errors, seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .columns import missing
from .outcomes import runs
from .read import TableError, as_text
from .units import Array, numbers

Labels = npt.NDArray[np.int64]

RUN_NAMES = ("run_id", "run_name", "run", "run_key", "key", "id", "name", "uid", "uuid", "experiment", "exp_name")
SEEDS = ("seed", "random_seed", "init_seed", "rng_seed")
SETTINGS = ("lr", "learning_rate", "peak_lr", "batch_tokens", "batch_size", "corpus", "dataset", "train_set", "config")
Z95 = 1.959964  # the half-width of a 95 % interval in standard errors


def clusters(
    frame: pd.DataFrame, N: Array, D: Array, loss: Array, column: str | None, source: str
) -> tuple[Labels | None, list[str]]:
    """Labels (n,) of runs that are not independent of each other, or None where each stands for itself, and a line for each reason.

    Together are rows of one value of `column` if given; otherwise checkpoints (one run id, or one N and seed, at several D; in a
    ledger, runs that branched off one trunk), and rows that repeat another one's N, D and loss to the last digit.
    """
    if column is not None:
        if column not in frame.columns:
            raise missing(frame, column, source)
        given = _groups(frame[[column]])
        return given, [f"{given.max() + 1} clusters by column {column}"]
    found: list[Labels] = []
    notes: list[str] = []
    copies = _groups(pd.DataFrame({"N": N, "D": D, "loss": loss}))
    if extra := len(N) - int(copies.max()) - 1:
        rows = "row repeats" if extra == 1 else "rows repeat"
        notes.append(f"{extra} {rows} N, D and loss of another one to the last digit; such rows count as one cluster")
        found.append(copies)
    checkpoints, by = _checkpoints(frame, N, D)
    if checkpoints is not None:
        several = int((np.bincount(checkpoints) > 1).sum())
        notes.append(
            f"{several} {runs(several)} with several rows at different D, recognised by {by}; each counts as one cluster"
        )
        found.append(checkpoints)
    return (_joined(found) if found else None), notes


def standard_errors(
    frame: pd.DataFrame, loss: Array, loss_col: str, column: str | None, source: str
) -> tuple[Array | None, list[str]]:
    """Relative standard errors of the loss (n,), which are those of log L, or None, and where they come from.

    From `column` if given; else from LOSS_se, loss_se, LOSS_stderr or stderr, or from the ends of a 95 % interval LOSS_lo95 and
    LOSS_hi95 divided by 3.92. They are used only if every run has one. Raises TableError for a `column` that is not so.
    """
    if column is not None and column not in frame.columns:
        raise missing(frame, column, source)
    names = (
        (column,) if column else (f"{loss_col}_se", "loss_se", f"{loss_col}_stderr", "loss_stderr", "stderr", "std_err")
    )
    ends = (f"{loss_col}_lo95", f"{loss_col}_hi95")
    if name := next((name for name in names if name in frame.columns), None):
        se, what = numbers(frame[name], counts=False, factor=None, what=source).values, f"column {name}"
    elif set(ends) <= set(frame.columns):
        low, high = (numbers(frame[end], counts=False, factor=None, what=source).values for end in ends)
        se, what = (high - low) / (2 * Z95), f"the 95 % intervals {ends[0]} to {ends[1]}"
    else:
        return None, []
    bad = int((~(np.isfinite(se) & (se > 0))).sum())
    if bad and column:
        raise TableError(f"{source}: column {column}: {bad} {runs(bad)} without a positive standard error")
    if bad:
        return None, [f"standard errors from {what} are not used: {bad} {runs(bad)} without a positive one"]
    return se / loss, [f"standard errors of the loss from {what}"]


def seed_noise(frame: pd.DataFrame, N: Array, D: Array, loss: Array) -> tuple[float | None, int]:
    """The pooled standard deviation of log L between seeds, and its degrees of freedom; (None, 0) without a repeated run.

    Pooled over groups of one N, D and setting (learning rate, batch, corpus): s^2 = sum over groups of sum (y - mean)^2 / sum (k - 1).
    """
    seed = next((name for name in SEEDS if name in frame.columns), None)
    if seed is None:
        return None, 0
    settings = [name for name in SETTINGS if name in frame.columns]
    groups = _groups(frame[settings].assign(N=N, D=D))
    one = (
        ~pd.DataFrame({"group": groups, "seed": _groups(frame[[seed]])}).duplicated().to_numpy()
    )  # a row for each seed
    y, groups = np.log(loss[one]), groups[one]
    size = np.bincount(groups)
    freedom = int((size[size > 0] - 1).sum())
    if not freedom:
        return None, 0
    centred = y - (np.bincount(groups, y) / np.maximum(size, 1))[groups]
    return float(np.sqrt((centred**2).sum() / freedom)), freedom


def _checkpoints(frame: pd.DataFrame, N: Array, D: Array) -> tuple[Labels | None, str]:
    """Labels by the first of trunk, run id, and N with seed under which some group holds several D."""
    if "spec" in frame.columns and (trunks := _trunks(frame["spec"])) is not None:
        return (trunks, "the trunk they branched off") if _several(trunks, D) else (None, "")
    for name in RUN_NAMES:
        if name in frame.columns and _several(labels := _groups(frame[[name]]), D):
            return labels, f"column {name}"
    seed = next((name for name in SEEDS if name in frame.columns), None)
    if seed is not None:
        settings = [name for name in SETTINGS if name in frame.columns]
        labels = _groups(frame[[seed, *settings]].assign(N=N))
        if _several(labels, D):
            return labels, f"N and {seed}"
    return None, ""


def _trunks(specs: pd.Series) -> Labels | None:
    """A ledger's runs by all of their spec but its tokens; with a cosine, which depends on D, each has a trunk of its own."""
    names = []
    for row, text in enumerate(specs):
        try:
            spec = json.loads(text)
            own = spec["schedule"].get("kind") == "cosine"
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
            return None
        names.append(str(row) if own else json.dumps({**spec, "tokens": None}, sort_keys=True))
    return _groups(pd.DataFrame({"trunk": names}))


def _several(labels: Labels, D: Array) -> bool:
    """Whether some group holds different D."""
    return bool((pd.Series(D).groupby(labels).nunique() > 1).any())


def _groups(frame: pd.DataFrame) -> Labels:
    """Rows of equal values have equal labels (n,), from 0 in order of appearance; rows without a value in a column stand alone."""
    text = frame.apply(lambda column: column if pd.api.types.is_numeric_dtype(column) else as_text(column))
    groups: pd.Series = text.groupby(list(text.columns), sort=False, dropna=True).ngroup().fillna(-1)
    labels: Labels = groups.to_numpy(dtype=np.int64, copy=True)
    alone = labels < 0
    labels[alone] = labels.max(initial=-1) + 1 + np.arange(alone.sum())
    return labels


def _joined(found: Sequence[Labels]) -> Labels:
    """Rows that any of the labellings puts together, directly or through others, have one label."""
    joined = found[0]
    for labels in found[1:]:
        offset = int(joined.max()) + 1
        size = offset + int(labels.max()) + 1
        graph = coo_array((np.ones(len(joined)), (joined, labels + offset)), shape=(size, size))
        parts: Labels = np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
        joined = parts[joined]
    return joined
