"""Options that the commands about laws share: how a table is read, which law is meant, and where JSON goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..show import write_json
from .corpus import console

JsonOut = Annotated[
    str | None,
    Parameter(name="--json", allow_leading_hyphen=True, help="Where JSON goes; - prints it, and nothing else."),
]
LawName = Annotated[
    str,
    Parameter(help="chinchilla, tied, coupled, kaplan, loglinear, envelope or data_constrained (needs a column U)."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Columns:
    """How the table is read.

    Parameters
    ----------
    where
        Columns compared with constants, joined by and/or; only these rows are used.
    n_col
        Column of parameters.
    d_col
        Column of training tokens.
    c_col
        Column of training FLOPs, where there is no N or no D.
    loss_col
        Column of the loss in nats per token.
    n_unit
        What the column of N counts: k, M, B, T, or 1.
    d_unit
        What the column of D counts.
    c_unit
        What the column of C counts.
    cluster_col
        Rows of one value here are not independent.
    se_col
        Column of the standard error of each run's loss.
    """

    where: str | None = None
    n_col: str = "N"
    d_col: str = "D"
    c_col: str = "C"
    loss_col: str = "loss"
    n_unit: str | None = None
    d_unit: str | None = None
    c_unit: str | None = None
    cluster_col: str | None = None
    se_col: str | None = None


PLAIN = Columns()


def output(json_out: str | None, document: Mapping[str, Any], what: str) -> None:
    """To a file, which a line names, or alone on standard output."""
    if json_out == "-":
        print(json.dumps(document, indent=1, allow_nan=False))
    elif json_out is not None:
        write_json(Path(json_out), document)
        console.print(f"{what}: {json_out}", markup=False)
