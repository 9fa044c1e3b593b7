"""`sixnd status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .corpus import console
from .options import JsonOut, output

Watch = Annotated[bool, Parameter(name="--watch", negative=(), help="Redraw it every second until the sweep is over.")]


def status(folder: Path, *, watch: Watch = False, json_out: JsonOut = None) -> None:
    """Show where a sweep stands: its runs, what they have cost, when it should end, and the law so far.

    Example: `sixnd status sweeps-out/demo --watch`

    Parameters
    ----------
    folder
        The sweep's folder.
    """
    from ..status import LawSoFar, status_of, status_view
    from ..status import watch as follow

    if watch:
        follow(folder, console)
        return
    now = status_of(folder)
    if json_out is not None:
        output(json_out, now.to_json(), "status")
        return
    console.print(status_view(now, LawSoFar(folder).update(now) if now.rows else []))
