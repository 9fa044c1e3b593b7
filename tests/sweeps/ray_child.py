"""Ray in a process of its own, whose settings it keeps: python -m tests.sweeps.ray_child SCENE CORPORA HASH OUT."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sixnd.models.config import ModelConfig
from sixnd.sweeps.driver import Interrupted, run_sweep
from sixnd.sweeps.executors.interface import Job, Outcome, Places
from sixnd.sweeps.executors.ray import RayExecutor
from sixnd.sweeps.planning.plan import make_plan
from sixnd.sweeps.spec import SweepSpec
from sixnd.train.corpus.build import open_corpus
from sixnd.train.spec import RunSpec

from tests.sweeps.sweep_child import small_sweep

# Ray takes 127.0.0.1 for the machine's outer address; a cluster of two nodes on loopback needs another one.
HEAD, SECOND = "127.0.0.2", "127.0.0.3"
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


def smaller_sweep() -> SweepSpec:
    """Four trunks of three runs, in rows that take about a second and about four."""
    return small_sweep().model_copy(update={"shapes": [(1, 32), (6, 48)]})


def stacked_sweep() -> SweepSpec:
    """Two seeds of one shape, which cool down for most of their time: the next D can start on another slot meanwhile."""
    sweep = small_sweep()
    train = sweep.train.model_copy(update={"cooldown": 0.9})
    return sweep.model_copy(update={"shapes": [(6, 48)], "tokens": [6400, 9600], "train": train})


def long_run(corpus: str) -> RunSpec:
    """Of several seconds, so that it can be stopped on its way."""
    plan = make_plan(smaller_sweep(), open_corpus(corpus))
    run = plan.runs[-1]
    shape = run.model
    return run.model_copy(update={"model": ModelConfig.from_shape(12, 96, shape.vocab_size, shape.context)})


def places_in(out: Path) -> Places:
    return Places(Path(os.environ["SIXND_CORPORA"]), out / "checkpoints", out / "live", out / "documents")


def wait_until(true: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


def children(pid: int, name: str) -> list[int]:
    """Processes that `pid` started and that bear `name`."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if name in Path(f"/proc/{child}/cmdline").read_text()]


def sweep_with_losses(corpus: str, out: Path) -> None:
    """A sweep on two nodes: the second loses its daemon and the first its worker, both at work."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args=NODE | {"node_ip_address": HEAD, "include_dashboard": False, "_system_config": QUICK},
    )
    second = cluster.add_node(node_ip_address=SECOND, **NODE)
    kept, lost = (node.all_processes["raylet"][0].process.pid for node in (cluster.head_node, second))
    killed: list[str] = []

    def busy(daemon: int) -> list[int]:
        return children(daemon, "RemoteWorker.train")

    def kill() -> None:
        wait_until(lambda: list((out / "live").glob("*.json")), "progress of a job")
        wait_until(lambda: busy(kept) and busy(lost), "a job on either node")
        os.kill(lost, signal.SIGKILL)
        killed.append("node")
        os.kill(busy(kept)[0], signal.SIGKILL)
        killed.append("worker")

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    sweep = smaller_sweep()
    plan = make_plan(sweep, open_corpus(corpus))
    run_sweep(sweep, plan, out, places_in(out).corpora, partial(RayExecutor, address=cluster.address), {})
    killer.join(timeout=1)
    cluster.shutdown()
    print("killed", *killed)


def sweep_without_a_disk(corpus: str, out: Path) -> None:
    """Stacked runs on two nodes that have a GPU each, as Ray counts them, and share nothing but a store."""
    from ray.cluster_utils import Cluster

    node = NODE | {"num_gpus": 1}
    head = node | {"node_ip_address": HEAD, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(node_ip_address=SECOND, **node)
    sweep, store = stacked_sweep(), (out / "store").as_uri()
    plan = make_plan(sweep, open_corpus(corpus))
    executor = partial(RayExecutor, address=cluster.address, gpus_per_run=1.0, store=store, most_stacked=2)
    run_sweep(sweep, plan, out, places_in(out).corpora, executor, {})
    cluster.shutdown()
    print(*(path.relative_to(out) for path in (out / "store" / "checkpoints").rglob("*.pt")))


def outcome_of_one_job(executor: RayExecutor, job: Job) -> Outcome:
    wait_until(executor.idle_slots, "a slot")
    slot = executor.idle_slots()[0]
    executor.submit(slot, job)
    ended: list[tuple[int, Outcome]] = []
    wait_until(lambda: ended or ended.extend(executor.completed(1.0)), "an outcome")
    assert [number for number, _ in ended] == [slot]
    return ended[0][1]


def one_run(corpus: str, out: Path, stop: bool) -> None:
    """The long run on a node that shares no disk with us: asked to stop on its way, or left to its end."""
    executor = RayExecutor(places_in(out), address="local", store=(out / "store").as_uri())
    if stop:
        executor.ask_to_stop()
    print(outcome_of_one_job(executor, Job(specs=(long_run(corpus),))).model_dump_json())
    executor.cancel()


def terminated_sweep(corpus: str, out: Path) -> None:
    """SIGTERM while jobs are at work."""

    def terminate() -> None:
        wait_until(lambda: list((out / "live").glob("*.json")), "progress of a job")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    sweep = smaller_sweep()
    plan = make_plan(sweep, open_corpus(corpus))
    try:
        run_sweep(sweep, plan, out, places_in(out).corpora, partial(RayExecutor, address="local"), {})
    except Interrupted as stopped:
        print(stopped)


def main(scene: str, corpora: str, corpus: str, out: str) -> None:
    os.environ["SIXND_CORPORA"] = corpora
    if scene == "losses":
        sweep_with_losses(corpus, Path(out))
    elif scene == "store":
        sweep_without_a_disk(corpus, Path(out))
    elif scene == "terminated":
        terminated_sweep(corpus, Path(out))
    else:
        one_run(corpus, Path(out), stop=scene == "stop")


if __name__ == "__main__":
    main(*sys.argv[1:])
