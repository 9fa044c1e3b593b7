"""The command line. Exit codes: 0 done, 2 the input is wrong (one line says what), 1 something failed (and what is safe)."""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import zip_longest

from cyclopts import App, CycloptsError

from .commands.budget import frontier, next_runs
from .commands.corpus import corpus_app
from .commands.ladder import models_app
from .commands.law import compare, fit, predict, profile, report
from .commands.ledger import ledger_app
from .commands.model import export, sample, train
from .commands.slurm import slurm
from .commands.status import status
from .commands.sweep import demo, plan, run
from .commands.tune import tune

app = App(
    name="sixnd",
    help="Train a grid of tiny transformers on public text and fit L(N, D) = A/N^alpha + B/D^beta + E.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    print_error=False,
    exit_on_error=False,
)
app.command(corpus_app)
app.command(ledger_app)
app.command(models_app)
for command in (
    plan,
    run,
    tune,
    demo,
    status,
    slurm,
    train,
    sample,
    export,
    fit,
    predict,
    compare,
    profile,
    frontier,
    report,
):
    app.command(command)
app.command(next_runs, name="next")


def main() -> None:
    """Runs a command and turns what went wrong into one line and an exit code."""
    started = time.perf_counter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a preempted machine's, as Ctrl-C
    try:
        app(_bare_json(sys.argv[1:]))
    except CycloptsError as error:
        _end(2, " ".join(str(error).split()) or "see sixnd --help")
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _end(
            1,
            f"{error.strerror or error}: {error.filename or ''}; what is finished is safe, and the same command goes on",
        )
    except KeyboardInterrupt:
        passed = time.perf_counter() - started
        _end(1, f"stopped after {passed:.0f} s; what is finished is safe, and the same command goes on")
    except Exception as error:
        # Errors that a person can mend say their exit code themselves: importing all their classes would cost 2 s.
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        _end(code, str(error))


def _bare_json(arguments: list[str]) -> list[str]:
    """A --json without a value means --json -; a corpus command's --json names a file."""
    if arguments[:1] == ["corpus"]:
        return arguments
    bare = [a == "--json" and (b is None or b.startswith("--")) for a, b in zip_longest(arguments, arguments[1:])]
    return [part for a, alone in zip(arguments, bare, strict=True) for part in ([a, "-"] if alone else [a])]


def _end(code: int, message: str) -> None:
    for line in message.splitlines():
        print(f"sixnd: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
