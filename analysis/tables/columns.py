"""Which column of a table holds what: the field's common names and units in headers, recognised only where there is no doubt."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from .read import TableError, shown
from .units import FACTORS, FLOPS

NAMES = {
    "N": "n params parameters n_params num_params n_parameters num_parameters param_count parameter_count total_params "
    "total_parameters model_params model_parameters model_size n_total",
    "D": "d tokens n_tokens num_tokens train_tokens training_tokens total_tokens tokens_seen token_count",
    "C": "c flops flop n_flops compute train_flops training_flops total_flops train_compute training_compute c_6nd",
    "loss": "loss val_loss valid_loss validation_loss eval_loss test_loss heldout_loss final_loss nll cross_entropy ce_loss",
}
OPTIONS = {"N": "--n-col", "D": "--d-col", "C": "--c-col", "loss": "--loss-col"}
LEDGER = {"N": "N_total", "loss": "test_loss"}
NEUTRAL = frozenset({"nats", "nat", "nats/token", "nats per token", "params", "parameters", "tokens", "flops", "flop"})
_MEANING = {name: role for role, names in NAMES.items() for name in names.split()}

_BRACKETS = re.compile(r"(.+?)[\s_]*[(\[]\s*(.+?)\s*[)\]]")
_ENDING = re.compile(r"(.+?)[\s_-]+(?:in[\s_-]+)?([a-z]+)")


@dataclass(frozen=True)
class Column:
    """A column of the table; `factor` is the unit in its header, 1e6 in "params (M)", or None; `note` says what was assumed."""

    name: str
    factor: float | None
    note: str | None


def is_ledger(frame: pd.DataFrame) -> bool:
    """Whether the table is a sweep's ledger or its export."""
    return {"N_total", "test_loss", "state"} <= set(frame.columns)


def find_column(frame: pd.DataFrame, role: str, asked: str, source: str) -> Column | None:
    """The column `asked` for; where that is only the role's own name (N, D, C, loss), else the one column of a common name, or None.

    Raises TableError for a missing column that was asked for by another name, and where several could be meant.
    """
    if asked in frame.columns:
        meaning = _meaning(asked)
        return Column(asked, meaning[1] if meaning else None, None)
    if asked != role:
        raise missing(frame, asked, source)
    if is_ledger(frame) and LEDGER.get(role) in frame.columns:
        return Column(LEDGER[role], None, None)
    meant = {name: meaning for name in frame.columns if (meaning := _meaning(name)) and meaning[0] == role}
    if len(meant) > 1:
        names = ", ".join(map(shown, meant))
        raise TableError(f"{source}: several columns may be {role}: {names}; say which with {OPTIONS[role]}")
    for name, (_, factor) in meant.items():
        return Column(name, factor, f"column {shown(name)} was taken as {role}")
    return None


def missing(frame: pd.DataFrame, name: str, source: str) -> TableError:
    """The error of a column that is not there."""
    has = ", ".join(map(shown, frame.columns[:40]))
    return TableError(
        f"{source}: there is no column {shown(name)!r}; the table has {has} ({', '.join(OPTIONS.values())})"
    )


def _meaning(name: str) -> tuple[str, float | None] | None:
    """The role that a header stands for and its unit: "params_M", "tokens (B)", "N in millions"; None for any other header."""
    text = name.strip().lower()
    if role := _MEANING.get(_plain(text)):
        return role, None
    for pattern in (_BRACKETS, _ENDING):
        if (match := pattern.fullmatch(text)) and (role := _MEANING.get(_plain(match[1]))):
            units = FLOPS | FACTORS if role == "C" else {} if role == "loss" else FACTORS
            if match[2] in units:
                return role, units[match[2]]
            if pattern is _BRACKETS and match[2] in NEUTRAL:
                return role, None
    return None


def _plain(text: str) -> str:
    return re.sub(r"[\s_\-/#]+", "_", text).strip("_")
