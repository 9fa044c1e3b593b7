"""The command line as its users run it: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def sixnd(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """What it printed; it must end with `code` and without a traceback."""
    command = [sys.executable, "-m", "sixnd.sweeps.cli", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done
