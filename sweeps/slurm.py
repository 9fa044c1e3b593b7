"""A batch script that runs a sweep on a Slurm allocation: Ray across its nodes, the driver on the first, one token for all."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from .lock import HOLDER
from .toml import SpecError

TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){0,2}")  # as sbatch reads --time: minutes, [days-]hours:minutes:seconds
WARNING_S = 120  # before the allocation ends or is preempted: enough for a step and a checkpoint
NODES_S = 600  # for all nodes to have joined: Ray's own 30 s are short where Python lies on a shared filesystem
PORT = 6379


@dataclass(frozen=True)
class Allocation:
    """What is asked of Slurm, and what a node runs before Ray."""

    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 8
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    setup: tuple[str, ...] = field(default=())  # shell lines, such as module load or source .venv/bin/activate

    def problems(self) -> list[str]:
        """One line for each option that Slurm would not take."""
        found = [
            f"--{name.replace('_', '-')} {value}: give at least {least}"
            for name, value, least in (
                ("nodes", self.nodes, 1),
                ("gpus_per_node", self.gpus_per_node, 0),
                ("cpus_per_task", self.cpus_per_task, 1),
            )
            if value < least
        ]
        if not TIME.fullmatch(self.time):
            found.append(f"--time {self.time!r}: give hours:minutes:seconds or days-hours:minutes:seconds")
        for name, text in (("partition", self.partition), ("account", self.account)):
            if text is not None and not re.fullmatch(r"[\w.,@+-]+", text):
                found.append(f"--{name} {text!r}: letters, digits and .,_@+- alone")
        return found


def batch_script(name: str, spec: str, overrides: tuple[str, ...], out: Path, allocation: Allocation) -> str:
    """The script's text; the spec and the sweep's folder must lie where every node sees them.

    Raises:
        SpecError: an option that Slurm would not take; one line for each.
    """
    if problems := allocation.problems():
        raise SpecError("\n".join(problems))
    options = [
        f"--job-name=sixnd-{name}",
        f"--nodes={allocation.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={allocation.cpus_per_task}",
        *([f"--gpus-per-node={allocation.gpus_per_node}"] if allocation.gpus_per_node else []),
        f"--time={allocation.time}",
        *([f"--partition={allocation.partition}"] if allocation.partition else []),
        *([f"--account={allocation.account}"] if allocation.account else []),
        "--requeue",
        f"--signal=B:TERM@{WARNING_S}",
        "--open-mode=append",
        f"--output={out}/slurm-%j.log",
    ]
    run = ["sixnd", "run", spec, *overrides, "executor=ray", "ray.address=auto", "--out", str(out)]
    gpus = f" --num-gpus={allocation.gpus_per_node}" if allocation.gpus_per_node else ""
    setup = "".join(f"{line}\n" for line in allocation.setup)
    return f"""#!/usr/bin/env bash
{"".join(f"#SBATCH {option}{chr(10)}" for option in options)}
# Submit it with sbatch; submit it again to go on. A preempted or timed-out job is warned {WARNING_S} s before: every run
# finishes its step and writes a checkpoint, and a requeued job goes on from there.
set -euo pipefail
{setup}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT={NODES_S}
RAY_AUTH_TOKEN_PATH={shlex.quote(str(out))}/.ray-token-$SLURM_JOB_ID
export RAY_AUTH_TOKEN_PATH
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
# Ray has a dashboard to turn off on the head alone, and refuses the option elsewhere.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" bash -c '
  head_only=(); if [ "$SLURM_PROCID" = 0 ]; then head_only=(--include-dashboard=false); fi
  exec ray symmetric-run --address "$1:{PORT}" --min-nodes "$SLURM_JOB_NUM_NODES" \\
    --num-cpus={allocation.cpus_per_task}{gpus} "${{head_only[@]}}" -- "${{@:2}}"' node "$head" \\
  {shlex.join(run)} &
step=$!
# The warning comes to this shell alone, or Ray's daemons would end before the runs have stopped. The driver is on this node.
warn() {{ kill -TERM "$(cut -d ' ' -f 2 {shlex.quote(str(out))}/{HOLDER})"; }}
trap warn TERM
wait "$step" || true # a signal ends the first wait
wait "$step"
"""
