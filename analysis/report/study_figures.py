"""The figures of what a study says of its uncertainty: profiles, and the forecast of runs that were held out."""

from __future__ import annotations

import re

import numpy as np

from ..uncertainty.profile import Profile
from ..uncertainty.quantities import AMPLITUDES
from .chart import Array, Axis, Chart, Figure, Key, Line, Points, padded, padded_linear
from .heldout import HeldOut
from .numbers import count, flops, rounded
from .runs import Runs

HIGHEST = 4.0  # of a profile, in units of its cut-off
LOGARITHMIC = {*AMPLITUDES, "G", "N*", "D*"}
SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ"}
_ACCENT, _MUTED, _GOOD, _BAD = "var(--accent)", "var(--muted)", "var(--good)", "var(--bad)"


def profile_figure(profile: Profile, width: str) -> Figure:
    """The lowest objective with one quantity held fixed, in units of the rise that ends the 95 % interval."""
    name, least = symbol(profile.name), float(profile.objective.min())
    rise = (profile.objective - least) / (profile.cutoff - least)
    near = rise <= HIGHEST
    near = near | np.append(near[1:], False) | np.append(False, near[:-1])  # and where the curve leaves the plot
    x, y = profile.grid[near], rise[near]
    low, high = (float(x[k]) if end is None else end for k, end in zip((0, -1), profile.interval, strict=True))
    texts = [
        f"{name} {value_text(profile.name, at)}<br>{height:.2f} of the cut-off" for at, height in zip(x, y, strict=True)
    ]
    modes = np.array(profile.modes)
    valleys = [f"valley at {name} {value_text(profile.name, mode)}" for mode in profile.modes]
    budget = " at ten times the largest compute of these runs" if profile.name in ("L*", "N*", "D*") else ""
    several = f" It has {len(modes)} valleys: several values fit almost as well." if profile.multimodal else ""
    return Figure(
        f"profile-{_identifier(profile.name)}",
        "uncertainty",
        f"Profile of {name}",
        f"The bar at the cut-off spans the 95 % interval{budget}: {interval_text(profile)}.{several}",
        f"The lowest objective at each {name}, in units of the cut-off",
        Chart(
            _profile_axis(profile.name, x),
            Axis("rise of the objective / cut-off", "number", (-0.2, HIGHEST)),
            (
                Line("profile", x, y, "var(--n-6)", 2, "profile", texts),
                Line("95 % interval", np.array([low, high]), np.ones(2), _ACCENT, 4, "interval"),
                Points("valleys", modes, np.interp(modes, x, y), [_ACCENT] * len(modes), valleys, "valleys", symbol="diamond", size=9),
            ),
            levels=(1.0,),
        ),
        width=width,
    )  # fmt: skip


def symbol(name: str) -> str:
    """A parameter as people write it."""
    return SYMBOLS.get(name, name)


def interval_text(profile: Profile) -> str:
    """Both ends in words."""
    low, high = profile.interval
    if low is None and high is None:
        return "the runs set no limit"
    shown = ["no limit" if end is None else value_text(profile.name, end) for end in (low, high)]
    return " to ".join(shown)


def value_text(name: str, value: float) -> str:
    return count(value) if name in ("N*", "D*") else rounded(value, None)


def held_out_figures(runs: Runs, held: HeldOut) -> list[Figure]:
    """The forecast with its 95 % intervals: over what was measured, and as an error over compute."""
    inside = held.inside
    share = f"{int(inside.sum())} of {len(inside)} intervals hold the measured loss"
    keys = (
        Key("inside", "inside its interval", _GOOD, "dot"),
        *((Key("outside", "outside", _BAD, "dot"),) if not inside.all() else ()),
    )
    ends = padded(np.concatenate([held.measured, held.loss]), 0.1)
    line, tall = 10 ** np.array(ends), padded(np.concatenate([held.low, held.high, held.measured]))
    C = runs.C[held.rows]
    percent, low, high = (100 * np.log(loss / held.loss) for loss in (held.measured, held.low, held.high))
    zero = np.zeros(len(C))
    spans = Points("95 % interval", C, zero, ["var(--axis)"] * len(C), [""] * len(C), "spans", -low, high, size=1)
    return [
        Figure(
            "held-out",
            "prediction",
            "Forecast against measured loss",
            f"Laws fitted to the {held.n_trained} runs of at most {flops(held.trained)} FLOPs forecast the other {len(C)}: {share}. On the "
            "line forecast and measurement agree.",
            f"Forecast loss with its 95 % interval against measured loss for {len(C)} runs of more compute than those fitted",
            Chart(
                Axis("measured loss, nats per token", "plain", ends),
                Axis("forecast loss, nats per token", "plain", tall),
                (
                    Line("agreement", line, line, _MUTED, 1.5),
                    *_judged(runs, held, held.measured, held.loss, (held.loss - held.low, held.high - held.loss)),
                ),
            ),
            keys,
            width="half",
        ),
        Figure(
            "held-out-error",
            "prediction",
            "Error of the forecast against compute",
            "The bars are the 95 % intervals about the forecast, the points where the measured loss fell. A trend away from zero is the "
            "drift of the law beyond its data.",
            f"Error of the forecast in percent against compute for {len(C)} runs, with 95 % intervals",
            Chart(
                Axis("compute C, FLOPs", "flops", padded(C)),
                Axis("log(measured / forecast loss), %", "percent", padded_linear(np.concatenate([low, high, percent]))),
                (spans, *_judged(runs, held, C, percent, None)),
                levels=(0.0,),
            ),
            keys,
            width="half",
        ),
    ]  # fmt: skip


def _judged(runs: Runs, held: HeldOut, x: Array, y: Array, bars: tuple[Array, Array] | None) -> list[Points]:
    """The held-out runs in two marks, by whether their interval holds what was measured."""
    marks = []
    for group, name, colour, which in (
        ("inside", "inside", _GOOD, held.inside),
        ("outside", "outside", _BAD, ~held.inside),
    ):
        at = np.flatnonzero(which)
        texts = [
            f"{run}<br>forecast {loss:.3f}, 95 % {low:.3f} to {high:.3f}"
            for run, loss, low, high in zip(
                runs.hover(held.rows[at]), held.loss[at], held.low[at], held.high[at], strict=True
            )
        ]
        below, above = (None, None) if bars is None else (bars[0][at], bars[1][at])
        marks.append(
            Points(name, x[at], y[at], [colour] * len(at), texts, group, below, above,
                   symbol="circle" if group == "inside" else "x", size=7)
        )  # fmt: skip
    return marks


def _profile_axis(name: str, x: Array) -> Axis:
    positive = name in LOGARITHMIC and x.min() > 0
    if not positive:
        return Axis(symbol(name), "number", padded_linear(x, 0.02))
    kind = "count" if name in ("N*", "D*") and x.max() < 1e15 else "flops"
    return Axis(symbol(name), kind, padded(x, 0.02))


def _identifier(name: str) -> str:
    """The name as an id of the page and a file name: N* is N-star."""
    return re.sub(r"\W+", "-", name.replace("*", "-star"))
