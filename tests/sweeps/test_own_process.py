"""Calls in a process of their own: answers, errors, and ends that nobody asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sixnd.sweeps.own_process import ProcessLost, in_own_process
from sixnd.sweeps.spec import SpecError


def pid_of(_: int) -> int:
    return os.getpid()


def refuse(line: str) -> None:
    raise SpecError(line)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_another_process_answers() -> None:
    assert in_own_process(pid_of, 1) != os.getpid()


def test_its_error_is_ours() -> None:
    with pytest.raises(SpecError, match=r"^one line$"):
        in_own_process(refuse, "one line")


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(ProcessLost, match=r"^die: its process was killed") as lost:
        in_own_process(die)
    assert lost.value.exit_code == 1


def test_it_goes_with_a_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\nfrom sixnd.sweeps.own_process import in_own_process\n"
        "def wait(): print(os.getpid(), flush=True); time.sleep(60)\n"
        "if __name__ == '__main__':\n    in_own_process(wait)\n"
    )
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            time.sleep(0.05)
