"""The batch script, run for real with stand-ins for Slurm's and Ray's commands, and what is refused."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from sixnd.sweeps.slurm import Allocation, batch_script
from sixnd.sweeps.toml import SpecError

from tests.command import sixnd

STANDINS = {
    "scontrol": 'printf "node7\nnode8\n"',
    "srun": 'echo "$1 $2" >> "$TOLD"; shift 2; for ((i = SLURM_JOB_NUM_NODES - 1; i >= 0; i--)); do SLURM_PROCID=$i "$@"; done',
    # As the real one: every node gets the arguments, a dashboard can be spoken of on the head alone, and only there the command runs.
    "ray": """
echo "$SLURM_PROCID: mode $RAY_AUTH_MODE, token $(stat -c %a "$RAY_AUTH_TOKEN_PATH") $(wc -c < "$RAY_AUTH_TOKEN_PATH")" >> "$TOLD"
given=(); while [ "$1" != -- ]; do given+=("$1"); shift; done; shift
echo "${given[@]}" >> "$TOLD"
if [ "$SLURM_PROCID" != 0 ]; then [[ "${given[*]}" != *dashboard* ]]; exit; fi
"$@"
""",
    "sixnd": 'printf "[%s]" "$@" >> "$TOLD"',
}


def test_the_script_starts_ray_on_every_node_and_the_sweep_on_the_first(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, body in STANDINS.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    out = tmp_path / "a folder"
    out.mkdir()
    allocation = Allocation(nodes=2, gpus_per_node=8, setup=("export READY=1",))
    script = batch_script("mine", "my sweep.toml", ("seeds=[0, 1]",), out, allocation)
    (tmp_path / "job.sbatch").write_text(script)
    assert subprocess.run(["bash", "-n", str(tmp_path / "job.sbatch")]).returncode == 0
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "TOLD": str(tmp_path / "told"),
        "SLURM_JOB_ID": "5",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    subprocess.run(["bash", str(tmp_path / "job.sbatch")], env=environment, check=True)
    srun, worker, joins, head, leads, run = (tmp_path / "told").read_text().splitlines()
    assert srun == "--nodes=2 --ntasks=2"
    assert (worker, head) == ("1: mode token, token 600 64", "0: mode token, token 600 64")
    assert joins == "symmetric-run --address node7:6379 --min-nodes 2 --num-cpus=8 --num-gpus=8"
    assert leads == f"{joins} --include-dashboard=false"
    assert run == f"[run][my sweep.toml][seeds=[0, 1]][executor=ray][ray.address=auto][--out][{out}]"
    assert not list(out.glob(".ray-token*")), "the token goes with the job"
    assert "#SBATCH --signal=B:TERM@120" in script and "#SBATCH --requeue" in script


def test_the_warning_reaches_the_driver_and_the_job_waits_for_it(tmp_path: Path) -> None:
    stopped = 'trap "echo stopped >> $TOLD; exit 1" TERM; echo "process $$ on here" > "$OUT/.driver"; sleep 30 & wait'
    commands = STANDINS | {"ray": 'while [ "$1" != -- ]; do shift; done; shift; "$@"', "sixnd": stopped}
    (tmp_path / "bin").mkdir()
    for name, body in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "job.sbatch").write_text(batch_script("mine", "a.toml", (), tmp_path, Allocation()))
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "TOLD": str(tmp_path / "told"),
        "OUT": str(tmp_path),
        "SLURM_JOB_ID": "5",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "1",
    }
    job = subprocess.Popen(["bash", str(tmp_path / "job.sbatch")], env=environment)
    deadline = time.monotonic() + 20
    while not (tmp_path / ".driver").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.terminate()
    assert job.wait(timeout=20) == 1, "the driver's exit code is the job's"
    assert (tmp_path / "told").read_text().endswith("stopped\n")


def test_every_wrong_option_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        batch_script("a", "a", (), tmp_path, Allocation(nodes=0, time="soon", partition="a b"))
    assert [line.split()[0] for line in str(error.value).splitlines()] == ["--nodes", "--time", "--partition"]


def test_the_command(tmp_path: Path) -> None:
    assert "is there already" not in sixnd("slurm", "demo", cwd=tmp_path).stderr
    assert (tmp_path / "demo.sbatch").exists()
    assert "demo.sbatch: is there already" in sixnd("slurm", "demo", cwd=tmp_path, code=2).stderr
    assert "#SBATCH --nodes=3" in sixnd("slurm", "demo", "--nodes", "3", "--script", "-", cwd=tmp_path).stdout
    assert "train.lrr" in sixnd("slurm", "demo", "train.lrr=1", cwd=tmp_path, code=2).stderr
