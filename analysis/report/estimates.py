"""Every estimate with its standard error and intervals, as a table of the page and as a LaTeX table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..budgets.frontier import exponent_a
from ..fit import Fit
from ..laws import Chinchilla
from ..study import Study
from ..uncertainty.profile import Profile
from .latex import escaped, math, number
from .numbers import Interval, rounded, rounded_interval
from .study_figures import interval_text, symbol


@dataclass(frozen=True)
class Estimate:
    name: str
    value: float
    se: float | None
    interval: Interval | None  # 95 %, of the bootstrap
    profile: Profile | None

    @property
    def cells(self) -> tuple[str, ...]:
        """Symbol, estimate, standard error, bootstrap interval, profile interval; "—" for what there is not."""
        return (
            symbol(self.name),
            rounded(self.value, self.interval),
            "—" if self.se is None else rounded(self.se, None),
            "—" if self.interval is None else rounded_interval(self.interval),
            "—" if self.profile is None else interval_text(self.profile),
        )


def estimates(fit: Fit, study: Study | None) -> tuple[Estimate, ...]:
    """The law's parameters in its own order, then a and b, then whatever else was profiled."""
    profiles = {profile.name: profile for profile in (study.profiles if study else ())}
    rows = [
        Estimate(name, value, fit.se.get(name), fit.ci95.get(name), profiles.pop(name, None))
        for name, value in fit.params.items()
    ]
    se = _se_of_a(fit)
    rows.append(Estimate("a", fit.frontier.a, se, fit.frontier.a_ci95, profiles.pop("a", None)))
    rows.append(Estimate("b", fit.frontier.b, se, fit.frontier.b_ci95, None))
    rows += [Estimate(name, profile.estimate, None, None, profile) for name, profile in profiles.items()]
    return tuple(rows)


def _se_of_a(fit: Fit) -> float | None:
    """The bootstrap standard error of a, and so of b = 1 - a, where a is a function of the exponents."""
    if not len(fit.samples) or not isinstance(fit.model, Chinchilla):
        return None
    return float(np.nanstd(exponent_a(fit.samples), ddof=1))


def latex_table(fit: Fit, study: Study | None) -> str:
    """The estimates as a table of booktabs with a caption and a label."""
    lines = []
    for row in estimates(fit, study):
        _, value, se, bootstrap, profile = row.cells
        lines.append(f"    {math(row.name)} & " + " & ".join(map(number, (value, se, bootstrap, profile))) + r" \\")
    caption = (
        f"Estimates of the {escaped(fit.law.replace('_', '-'))} law from {fit.n_runs} runs: the value at the optimum, the bootstrap standard "
        r"error, and 95\,\% intervals from the bootstrap and from the profile of the objective."
    )
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"  \centering",
            rf"  \caption{{{caption}}}",
            r"  \label{tab:scaling-law}",
            r"  \begin{tabular}{lrrrr}",
            r"    \toprule",
            r"    & estimate & s.e. & bootstrap 95\,\% & profile 95\,\% \\",
            r"    \midrule",
            *lines,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )
