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

RUN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without
from sixnd.sweeps.cli import main
print("started", flush=True)
main()
"""


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.5, 3.0])  # while processes start, and while the corpus is built
def test_a_sweep_stopped_before_it_trains_says_so_in_one_line(tmp_path: Path, number: int, after: float) -> None:
    """Ctrl-C reaches every process of the terminal's group; nothing but one line may come of it."""
    folders = ["--corpora", str(tmp_path / "corpora"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", RUN, "run", "demo", *folders]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(after)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert said.startswith("sixnd: stopped after ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
