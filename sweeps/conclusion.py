"""The last lines of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..train.corpus.contamination import CLEAN_BELOW
from .ledger.store import FILE, open_ledger
from .show import short, where_is
from .tables import law_in_numbers, loss_grid, print_fit

if TYPE_CHECKING:  # it imports pandas and scipy, which a driver has no need of while it trains
    from .results import Results


class Failed(Exception):
    """Something failed that is not the input's fault; the message says what is safe."""

    exit_code = 1


def conclude(out: Path, results: Results, console: Console) -> None:
    """The last lines of a run: losses, law, and where everything is."""
    ledger = open_ledger(out)
    rows = ledger.rows()
    ledger.close()
    grid, falls = loss_grid(rows)
    console.print("\ntest loss, nats per token")
    console.print(grid)
    console.print(f"losses fall along every row and column: {'yes' if falls else 'NO'}")
    if contaminated := [row for row in rows if row["test_loss_dirty"] is not None]:
        best = min(contaminated, key=lambda row: row["test_loss"])
        console.print(
            f"held-out text that shares {CLEAN_BELOW:.0%} or more of its words with the training text, in n-grams:"
            f" {best['test_loss_dirty']:.3f}; the rest: {best['test_loss_clean']:.3f} (N {short(best['N_total'])}, D {short(best['D'])})"
        )
    console.print()
    if results.fit is not None:
        print_fit(console, results.fit)
        console.print(f"\n{law_in_numbers(results.fit)}")
    else:
        console.print(f"no law: {results.why_no_fit}", markup=False)
    bad = [row for row in rows if row["state"] in ("failed", "diverged")]
    for row in bad:
        console.print(f"{row['state']}: N {row['N_total']:,} D {row['D']:,}: {row['error']}", markup=False)
    if results.report is not None:
        console.print(f"report: {where_is(results.report)}")
    if failed := sum(row["state"] == "failed" for row in rows):
        raise Failed(
            f"{failed} of {len(rows)} runs failed; the others are safe in {where_is(out / FILE)}, and the same command tries again"
        )
