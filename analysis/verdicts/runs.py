"""What a careful reader should know about a fit: each check is a function that returns a Verdict, or None when all is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..laws import Array
from ..solver.losses import NORMAL_MAD
from ..tables.read import as_text
from .verdict import Refit, RunName, Verdict, numbered

FEW_RUNS = 10
OUTLIER_SIGMAS = 6.0
LEFT_OUT = 1 << 20  # runs times clusters: in larger tables one run moves nothing, and refitting without each is slow
MOVES_A = 0.01
CONVENTION_MOVES_A = 0.02
BUDGET_WIDTH = 0.5  # decades of C that count as one budget
FEWEST_SIZES = 3  # N at one budget, for it to have a range
TUNED = ("lr_tuned", "tuned")
RATES = ("lr", "learning_rate", "peak_lr")
ONE_LAW_EACH = ("corpus", "dataset", "train_set", "config", "tokenizer", "vocab_size")


def few_runs(N: Array, D: Array) -> Verdict | None:
    """Fewer than 10 runs, or fewer than 3 different N or D, for five parameters."""
    n, sizes, lengths = len(N), len(np.unique(N)), len(np.unique(D))
    if n >= FEW_RUNS and min(sizes, lengths) >= 3:
        return None
    return Verdict(
        "few_runs", f"{n} runs with {sizes} different N and {lengths} different D are few for five parameters"
    )


def no_intervals(count: int) -> Verdict | None:
    if count == 0:
        return Verdict("no_intervals", "without a bootstrap there are no standard errors and no intervals")
    if count < 200:
        return Verdict("no_intervals", f"{count} bootstrap resamples are too few for 95 % intervals; use 1000")
    return None


def rows_set_aside(reasons: tuple[str, ...]) -> Verdict | None:
    return Verdict("rows_set_aside", "; ".join(reasons)) if reasons else None


def units(doubts: tuple[str, ...]) -> Verdict | None:
    """What in `RunTable.unit_doubts` makes N, D, C or the loss look as if they were in another unit."""
    return Verdict("units", "; ".join(doubts)) if doubts else None


def mixed_runs(frame: pd.DataFrame) -> Verdict | None:
    """Runs on different text or of different recipes, each of which has a law of its own, are in one fit."""
    several = {name: n for name in ONE_LAW_EACH if name in frame.columns and (n := as_text(frame[name]).nunique()) > 1}
    if not several:
        return None
    found = " and ".join(f"{n} different {name}" for name, n in several.items())
    return Verdict("mixed_runs", f"runs of {found} are fitted together; each has a law of its own (--where keeps one)")


def outlier(
    N: Array,
    D: Array,
    residuals: Array,
    a: float | None = None,
    refit: Refit | None = None,
    name: RunName | None = None,
) -> Verdict | None:
    """Runs farther from the law than six robust standard deviations (1.4826 times the median absolute residual).

    With `a` and `refit` the message says what a is without them.
    """
    size = np.abs(residuals)
    # Near the L1 norm the curve passes through as many runs as it has parameters: their zeros say nothing about the noise.
    scale = max(NORMAL_MAD * float(np.median(np.sort(size)[5:])), 1e-6)
    far = size > OUTLIER_SIGMAS * scale
    count = int(far.sum())
    if not count:
        return None
    worst = int(np.argmax(size))
    runs = "1 run lies" if count == 1 else f"{count} runs lie"
    without = ""
    if a is not None and refit is not None and _enough(N[~far], D[~far]):
        them = "it" if count == 1 else "them"
        without = f"; without {them} a is {_a(refit((~far)[None].astype(np.float64)))[0]:.3f} instead of {a:.3f}"
    return Verdict(
        "outlier",
        f"{runs} more than {OUTLIER_SIGMAS:g} robust standard deviations off the law; the farthest is"
        f" {(name or numbered(N, D))(worst)}, {np.expm1(residuals[worst]):+.1%} of the fitted loss{without}",
    )


def influential_run(
    N: Array,
    D: Array,
    a: float,
    refit: Refit,
    name: RunName | None = None,
    cluster: npt.NDArray[np.int64] | None = None,
) -> Verdict | None:
    """One run alone makes up more than half of the jackknife variance of a, and moves a by more than 0.01.

    With `cluster` (n,) rows of one label, copies or checkpoints of one run, are left out together.
    """
    labels = np.arange(len(N)) if cluster is None else np.unique(cluster, return_inverse=True)[1]
    count = int(labels.max()) + 1
    if count < 2 or count * len(N) > LEFT_OUT:
        return None
    weights = (labels != np.arange(count)[:, None]).astype(np.float64)
    enough = np.array([_enough(N[kept], D[kept]) for kept in weights > 0])
    if not enough.any():
        return None
    moved = np.where(enough, _a(refit(np.where(enough[:, None], weights, 1.0))) - a, 0.0)
    worst = int(np.argmax(np.abs(moved)))
    if not (moved[worst] ** 2 > 0.5 * (moved**2).sum() and abs(moved[worst]) > MOVES_A):
        return None
    rows = np.flatnonzero(labels == worst)
    others = f" and the {len(rows) - 1} rows that go with it" if len(rows) > 1 else ""
    run = (name or numbered(N, D))(int(rows[0]))
    return Verdict("influential_run", f"without {run}{others} a is {a + moved[worst]:.3f} instead of {a:.3f}")


def n_convention(conventions: Mapping[str, Array], exponent: Callable[[Array], float]) -> Verdict | None:
    """a moves by more than 0.02 with what counts as a parameter (Pearce & Song 2024, arXiv 2406.12907).

    `conventions` are N (n,) by name (`RunTable.conventions`), `exponent` fits the law to such an N and gives a.
    """
    if len(conventions) < 2:
        return None
    found = {name: exponent(N) for name, N in conventions.items()}
    if not max(found.values()) - min(found.values()) > CONVENTION_MOVES_A:
        return None
    values = ", ".join(f"{a:.3f} by {name}" for name, a in found.items())
    return Verdict("n_convention", f"a depends on what counts as a parameter: {values}")


def untuned(frame: pd.DataFrame, N: Array, D: Array) -> Verdict | None:
    """The table says that learning rates were not tuned; without a column about it, it says nothing.

    A column lr_tuned or tuned decides where there is one. Otherwise a column lr, learning_rate or peak_lr: one rate only at each (N, D)
    is no sign of tuning, and several mean that the fit holds runs at rates that were not the best.
    """
    columns = {name.lower(): name for name in frame.columns}
    why = "untuned small models alone move a by 0.07 (Porian et al. 2024)"
    if stated := next((columns[name] for name in TUNED if name in columns), None):
        tuned = as_text(frame[stated]).str.lower().isin(["true", "1", "1.0", "yes"]).to_numpy(dtype=np.bool_)
        if tuned.all():
            return None
        return Verdict("untuned", f"column {stated}: {int((~tuned).sum())} of {len(tuned)} runs were not tuned; {why}")
    rate = next((columns[name] for name in RATES if name in columns), None)
    if rate is None:
        return None
    tried = pd.DataFrame({"N": N, "D": D, "rate": as_text(frame[rate])}).groupby(["N", "D"])["rate"].nunique()
    several = int((tried > 1).sum())
    if several:
        message = (
            f"at {several} of {len(tried)} (N, D) runs of several {rate} are fitted together; keep the best of each"
        )
    else:
        message = (
            f"the table has one {rate} at each (N, D) and no column lr_tuned: nothing shows that it is the best one"
        )
    return Verdict("untuned", f"{message}; {why}")


def optimum_outside_grid(N: Array, D: Array, optimal_N: Callable[[Array], Array]) -> Verdict | None:
    """The fitted N*(C) lies outside the N that were trained at that budget, at the largest budget or at half of them.

    Budgets are half decades of C = 6ND with at least three N in them; `optimal_N` gives N* (k,) at C (k,).
    """
    log_c = np.log10(6.0) + np.log10(N) + np.log10(D)
    bins = np.floor(log_c / BUDGET_WIDTH)
    rows = pd.DataFrame({"bin": bins, "log_c": log_c, "N": N}).groupby("bin")
    each = rows.agg(log_c=("log_c", "median"), low=("N", "min"), high=("N", "max"), sizes=("N", "nunique"))
    each = each[each["sizes"] >= FEWEST_SIZES]
    if each.empty:
        return None
    C, low, high = (each[name].to_numpy(dtype=np.float64) for name in ("log_c", "low", "high"))
    best = optimal_N(10.0**C)
    outside = np.isfinite(best) & ((best < low) | (best > high))
    if not (outside[-1] or outside.mean() >= 0.5):
        return None
    k = int(np.flatnonzero(outside)[-1])
    return Verdict(
        "optimum_outside_grid",
        f"at {int(outside.sum())} of {len(each)} budgets the compute-optimal N lies outside the N that were trained there:"
        f" at C = {10.0 ** C[k]:.2g} it is {best[k]:.3g}, and the runs have {low[k]:.3g} to {high[k]:.3g}",
    )


def extrapolation(name: str, value: float, low: float, high: float) -> Verdict | None:
    """A prediction at `value` when the fitted runs span low to high."""
    if not low * 0.9 <= value <= high * 1.1:
        far, side, end = (
            (value / high, "above the largest", high) if value > high else (low / value, "below the smallest", low)
        )
        return Verdict(
            "extrapolation", f"{name} = {value:.3g} is {np.log10(far):.1f} decades {side} {name} of the fit ({end:.3g})"
        )
    return None


def _a(params: Array) -> Array:
    """a = beta/(alpha + beta) for params (S, 5): (S,)."""
    return np.asarray(params[:, 4] / np.maximum(params[:, 3] + params[:, 4], 1e-12))


def _enough(N: Array, D: Array) -> bool:
    return len(N) >= 6 and min(len(np.unique(N)), len(np.unique(D))) >= 2
