"""What a careful reader should know about a fit: each check returns a Verdict, or None when all is well."""

from .identification import E_unidentified, exponent_unidentified, multimodal, not_separable, two_modes
from .runs import (
    extrapolation,
    few_runs,
    influential_run,
    mixed_runs,
    n_convention,
    no_intervals,
    optimum_outside_grid,
    outlier,
    rows_set_aside,
    units,
    untuned,
)
from .verdict import Verdict

__all__ = [
    "E_unidentified",
    "Verdict",
    "exponent_unidentified",
    "extrapolation",
    "few_runs",
    "influential_run",
    "mixed_runs",
    "multimodal",
    "n_convention",
    "no_intervals",
    "not_separable",
    "optimum_outside_grid",
    "outlier",
    "rows_set_aside",
    "two_modes",
    "units",
    "untuned",
]
