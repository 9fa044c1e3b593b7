"""`sixnd slurm`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .corpus import console
from .sweep import Out


def slurm(
    spec: str,
    *overrides: str,
    out: Out = None,
    nodes: int = 1,
    gpus_per_node: int = 0,
    cpus_per_task: int = 8,
    time: str = "24:00:00",
    partition: str | None = None,
    account: str | None = None,
    setup: str = "",
    script: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    force: bool = False,
) -> None:
    """Write an sbatch script that runs a sweep on Ray across a Slurm allocation, and submit nothing.

    Example: `sixnd slurm cluster-8x8 --nodes 8 --gpus-per-node 8 --setup 'source .venv/bin/activate'`

    Parameters
    ----------
    spec
        A TOML file, or a preset's name.
    overrides
        key=value, such as ray.gpus_per_run=0.25.
    nodes, gpus_per_node, cpus_per_task, time, partition, account
        As sbatch takes them; one task runs on each node.
    setup
        Shell commands for each node, separated by ; such as module load cuda; source .venv/bin/activate
    script
        File to write, NAME.sbatch by default; - prints it.
    force
        Replace a script that is there.
    """
    from ..show import where_is
    from ..slurm import Allocation, batch_script
    from ..spec import SpecError, load_sweep

    sweep = load_sweep(spec, (*overrides, "executor=ray"))
    folder = (out or Path("sweeps-out") / sweep.name).resolve()
    lines = tuple(line.strip() for line in setup.split(";") if line.strip())
    allocation = Allocation(nodes, gpus_per_node, cpus_per_task, time, partition, account, lines)
    given = str(Path(spec).resolve()) if Path(spec).exists() else spec
    text = batch_script(sweep.name, given, overrides, folder, allocation)
    if script == "-":
        sys.stdout.write(text)
        return
    path = Path(script or f"{sweep.name}.sbatch")
    if path.exists() and not force:
        raise SpecError(f"{path}: is there already; give --force to replace it, or another --script")
    folder.mkdir(parents=True, exist_ok=True)  # the job's log goes there before anything else does
    path.write_text(text, encoding="utf-8")
    console.print(f"{where_is(path)}: submit it with sbatch {where_is(path)}", markup=False)
