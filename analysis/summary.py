"""A fit in words: as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fit import Fit


def text(fit: Fit) -> str:
    """The law, its numbers with intervals, the certificate, notes and warnings, a line each."""
    lines = [title(fit), ""]
    lines += [f"{name:>12}  {value:<12}  {interval}".rstrip() for name, value, interval in estimates(fit)]
    lines += ["", certificate(fit)]
    lines += [f"note: {note}" for note in fit.notes]
    lines += [f"warning {warning.code}: {warning.message}" for warning in fit.warnings]
    return "\n".join(lines)


def html(fit: Fit) -> str:
    """The same as HTML; whatever the table's names hold is escaped."""
    cells = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in estimates(fit)
    )
    warnings = "".join(f"<li><b>{escape(w.code)}</b>: {escape(w.message)}</li>" for w in fit.warnings)
    notes = "".join(f"<li>{escape(note)}</li>" for note in fit.notes)
    return (
        f"<div><b>{escape(title(fit))}</b>"
        f"<table><thead><tr><th></th><th>estimate</th><th>95 % interval</th></tr></thead><tbody>{cells}</tbody></table>"
        f"<p>{escape(certificate(fit))}</p><ul>{warnings}</ul><details><summary>notes</summary><ul>{notes}</ul></details></div>"
    )


def title(fit: Fit) -> str:
    return f"{fit.model.formula}   ({fit.n_runs} runs of {fit.source})"


def estimates(fit: Fit) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of every parameter, and of a and b where the law has a compute-optimal point."""
    rows = [(name, f"{value:.4g}", between(fit.ci95.get(name))) for name, value in fit.params.items()]
    a, b = fit.frontier.a, fit.frontier.b
    if a == a:  # not nan
        rows.append(("a (N* ~ C^a)", f"{a:.3f}", between(fit.frontier.a_ci95)))
        rows.append(("b (D* ~ C^b)", f"{b:.3f}", between(fit.frontier.b_ci95)))
    return rows


def between(bounds: tuple[float, float] | None) -> str:
    return f"{bounds[0]:.4g} to {bounds[1]:.4g}" if bounds else "none"


def certificate(fit: Fit) -> str:
    """What says that the optimum is the global one."""
    best = fit.optimum
    return (
        f"the best of {best.starts} starts, and {best.starts_agreeing} of them end there; gradient {best.gradient_norm:.0e},"
        f" condition number {best.condition:.2g}"
    )
