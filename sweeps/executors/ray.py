"""Jobs on a Ray cluster: slots come and go with its nodes, and a node that is lost costs its jobs a retry.

Ray Core only. Every slot is an actor on a node that has room for it; the driver's own rule (a slot goes on with the
trunk it trained last) keeps a trunk near its checkpoints.
"""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ...train.files import atomic_file
from ...train.machine import worker_environment
from ...train.memory import MOST_STACKED
from ...train.progress import Progress
from ...train.spec import branch_file
from ..live import LiveFile
from .interface import Job, Outcome, Places
from .mirror import Store, push_corpus
from .ray_cluster import connect, last_line
from .remote import Desk, RemoteWorker
from .worker import STOP

LOOK_EVERY_S = 1.0  # at the nodes, and at the desk
WAIT_FOR_NODES_S = 300.0  # a batch system may take minutes to replace a node


class ClusterLost(Exception):
    """No node is left that could train; what is finished is safe."""

    exit_code = 1


@dataclass
class Slot:
    """A worker on a node. It is open once it has answered that it can serve, and busy while `result` is set."""

    node: str
    worker: Any
    answer: Any
    open: bool = False
    result: Any = None


class RayExecutor:
    """Trains jobs on the cluster at `address`, as many at once as its nodes' resources admit.

    Args:
        places: folders of the sweep, on a disk that all nodes see unless `store` is given.
        address: `auto` for the cluster of this machine or of RAY_ADDRESS, HOST:PORT, or `local` to start one here.
        cpus_per_run: cores that a run takes up.
        gpus_per_run: share of one GPU that a run takes up: 0.25 packs four.
        store: URL of checkpoints and corpora where nodes share no disk.
        most_stacked: runs of one shape as one program, where each has a whole GPU; None where no GPU is here to ask for its
            memory: then MOST_STACKED, which the driver trains one by one should they not fit.

    Raises:
        SpecError: Ray is not installed, no cluster answers at `address`, or `store` is no URL that fsspec opens.
    """

    def __init__(
        self,
        places: Places,
        address: str = "auto",
        cpus_per_run: float = 1.0,
        gpus_per_run: float = 0.0,
        store: str | None = None,
        most_stacked: int | None = None,
    ) -> None:
        self.places = Places(*(path.resolve() for path in vars(places).values()))
        self.cpus_per_run, self.gpus_per_run, self.store_url = cpus_per_run, gpus_per_run, store
        self.store = Store(store) if store else None
        self.stacked = most_stacked or MOST_STACKED
        self.slots: dict[int, Slot] = {}
        self.running: dict[int, Job] = {}
        self.refused: dict[str, str] = {}  # why, by node
        self.corpora_in_store: set[str] = set()
        self.trunks: set[str] = set()
        self.asked: dict[str, float] = {}  # when the store was, by branch point
        self.alive: set[str] = set()  # nodes
        self._numbers, self._next_look, self._served_at = 0, 0.0, time.monotonic()
        for folder in (self.places.live, self.places.documents, self.places.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        self.marker = self.places.live / f"driver-{secrets.token_hex(8)}"  # a node that sees it shares our disk
        self.marker.touch()
        self.ray = connect(address)
        here = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )
        self.desk = self.ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()

    @property
    def most_stacked(self) -> int:
        """Runs of one shape as one program where a run has a whole GPU."""
        return self.stacked if self.gpus_per_run >= 1 else 1

    def idle_slots(self) -> list[int]:
        """Slots that take a job now; none while the cluster is starting, or between the loss of a node and its successor.

        Raises:
            ClusterLost: none for five minutes, or every node refuses.
        """
        self._look()
        if any(slot.open for slot in self.slots.values()):
            self._served_at = time.monotonic()
        elif (waited := time.monotonic() - self._served_at) > WAIT_FOR_NODES_S or (self.refused and not self.slots):
            needs = f"{self.cpus_per_run:g} CPUs" + f" and {self.gpus_per_run:g} GPUs" * bool(self.gpus_per_run)
            why = "; ".join(self.refused.values()) or f"none with {needs} free in {waited:.0f} s"
            raise ClusterLost(f"the Ray cluster has no node for a run: {why}; the same command goes on")
        return [number for number, slot in self.slots.items() if slot.open and slot.result is None]

    def submit(self, slot: int, job: Job) -> None:
        """Hands a job to an idle slot."""
        if self.store and (corpus := job.specs[0].corpus) not in self.corpora_in_store:
            push_corpus(self.store, self.places.corpora, corpus)
            self.corpora_in_store.add(corpus)
        # The driver removes this folder once the trunk is of no more use; the store follows.
        (self.places.checkpoints / job.named.trunk_key).mkdir(exist_ok=True)
        self.trunks.add(job.named.trunk_key)
        self.running[slot] = job
        self.slots[slot].result = self.slots[slot].worker.train.remote(job.model_dump_json())

    def has_branched(self, job: Job) -> bool:
        """Whether another slot can go on with a job's trunk; the store is asked once a second at most."""
        if self.store is None:
            return self.places.holds_branch(job)
        name, now = f"checkpoints/{branch_file(job.named)}", time.monotonic()
        if now < self.asked.get(name, 0.0) + LOOK_EVERY_S:
            return False
        self.asked[name] = now
        return self.store.holds(name)

    def completed(self, timeout: float) -> list[tuple[int, Outcome]]:
        """(slot, outcome) of the jobs that ended, after at most `timeout` seconds; one outcome for every submission."""
        deadline = time.monotonic() + timeout
        while True:
            self._look()
            ended = [(number, self._outcome(number)) for number in self._ended()]
            if ended or (left := deadline - time.monotonic()) <= 0:
                return ended
            waiting = [slot.result for slot in self.slots.values() if slot.result is not None]
            if waiting:
                self.ray.wait(waiting, timeout=min(left, LOOK_EVERY_S))
            else:
                time.sleep(min(left, LOOK_EVERY_S))

    def ask_to_stop(self) -> None:
        """Asks every running job to finish its step, save a checkpoint and end as stopped."""
        (self.places.live / STOP).touch()
        self.desk.stop.remote()

    def cancel(self) -> None:
        """Ends every worker now; what they had not returned is not done. A cluster that was started here ends too."""
        for slot in self.slots.values():
            self.ray.kill(slot.worker)
        self.ray.kill(self.desk)
        self._forget_trunks()
        self.ray.shutdown()

    def _look(self) -> None:
        """Once a second: opens slots on nodes with room, drops those of nodes that are gone, passes progress on."""
        if (now := time.monotonic()) < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_S
        alive = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}
        self.alive = set(alive)
        self.refused = {node: why for node, why in self.refused.items() if node in alive}
        for number, slot in list(self.slots.items()):
            if slot.node not in alive and slot.result is None:
                del self.slots[number]
            elif not slot.open and self.ray.wait([slot.answer], timeout=0)[0]:
                self._open(number, slot)
        for node, resources in alive.items():
            taken = sum(slot.node == node for slot in self.slots.values())
            for _ in range(0 if node in self.refused else self._room(resources) - taken):
                self._start(node)
        self._pass_on_progress()
        self._forget_trunks()

    def _room(self, resources: dict[str, float]) -> int:
        """Runs that fit a node; a run's share of a GPU lies on one GPU."""
        by_cpu = int(resources.get("CPU", 0) / self.cpus_per_run + 1e-9)
        if not self.gpus_per_run:
            return by_cpu
        return min(by_cpu, int(resources.get("GPU", 0)) * int(1 / self.gpus_per_run + 1e-9))

    def _start(self, node: str) -> None:
        """Asks for a worker on a node; Ray starts it once others have left it the room."""
        there = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        worker = (
            self.ray.remote(RemoteWorker)
            .options(
                num_cpus=self.cpus_per_run,
                num_gpus=self.gpus_per_run,
                max_restarts=0,  # the driver decides what is tried again
                max_task_retries=0,
                scheduling_strategy=there,
                runtime_env={"env_vars": worker_environment()},
            )
            .remote(self.desk, self.places, self.store_url)
        )
        answer = worker.refuses.remote(version("sixnd"), self.marker)
        self.slots[self._numbers] = Slot(node, worker, answer)
        self._numbers += 1

    def _open(self, number: int, slot: Slot) -> None:
        try:
            why = self.ray.get(slot.answer)
        except self.ray.exceptions.RayError as error:
            why = f"its worker does not start: {last_line(error)}"
        if why is None:
            slot.open = True
            return
        del self.slots[number]
        if slot.node not in self.refused:
            self.refused[slot.node] = f"node {self._host(slot.node)} {why}"
            print(f"left out: {self.refused[slot.node]}", file=sys.stderr, flush=True)

    def _host(self, node: str) -> str:
        return next((n["NodeManagerHostname"] for n in self.ray.nodes() if n["NodeID"] == node), node)

    def _ended(self) -> list[int]:
        busy = {number: slot for number, slot in self.slots.items() if slot.result is not None}
        ready = self.ray.wait([s.result for s in busy.values()], num_returns=len(busy), timeout=0)[0] if busy else []
        return [number for number, slot in busy.items() if slot.result in ready or slot.node not in self.alive]

    def _outcome(self, number: int) -> Outcome:
        """Of a job that returned, or whose node is gone: what such a node's worker may still return is not heard."""
        slot, job = self.slots[number], self.running.pop(number)
        for key in job.keys:
            (self.places.live / f"{key}.json").unlink(missing_ok=True)
        try:
            outcome, documents = self.ray.get(slot.result, timeout=0)
        except (self.ray.exceptions.RayError, TimeoutError) as error:
            del self.slots[number]
            host = self._host(slot.node)
            if isinstance(error, self.ray.exceptions.RayTaskError):  # the worker is there, and ours is the error
                lost = f"on node {host}: {last_line(error)}"
            else:
                lost = f"node {host} was lost" if slot.node not in self.alive else f"its worker on node {host} was lost"
            return Outcome(error=lost, try_again=True)
        slot.result = None
        for name, content in documents.items():
            with atomic_file(self.places.documents / name) as file:
                file.write(content)
        return Outcome.model_validate_json(outcome)

    def _pass_on_progress(self) -> None:
        """From the desk to the files that `sixnd status` reads."""
        try:
            heard = self.ray.get(self.desk.heard.remote(), timeout=LOOK_EVERY_S)
        except (self.ray.exceptions.RayError, TimeoutError):
            return  # it is starting, or this node is busy: progress is news, not a result
        for key in heard.keys() & {key for job in self.running.values() for key in job.keys}:
            LiveFile(self.places.live, key)(Progress(**heard[key]))

    def _forget_trunks(self) -> None:
        """Removes from the store the trunks that the driver has no more use for."""
        for trunk in [trunk for trunk in self.trunks if not (self.places.checkpoints / trunk).exists()]:
            self.trunks.discard(trunk)
            if self.store:
                self.store.remove(f"checkpoints/{trunk}")
