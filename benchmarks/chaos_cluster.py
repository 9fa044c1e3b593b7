"""A Ray cluster on this machine's loopback whose node daemons can be killed: what `chaos.py --ray` runs its sweeps on."""

from __future__ import annotations

import os
import random
import secrets
import signal
from pathlib import Path
from typing import Any

from sweep_overhead import children, cmdline

NODES = 2  # of one core each, beside a head of none that is never killed: with it the cluster itself would be gone
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
WORKER = b"RemoteWorker"  # what Ray calls the process of a sweep's slot


class RayNodes:
    """A head and NODES nodes, every one at an address of its own; a node that was killed is followed by a new one."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """Starts them with `environment`, which is to be the drivers' too, and gets Ray's settings.

        `folder` holds Ray's files; its name must be short enough for sockets.
        """
        environment |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": str(folder),
            "TMPDIR": str(folder),  # where nodes keep what they pull from a store
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        os.environ |= environment
        from ray.cluster_utils import Cluster  # it reads them when it is imported

        self.next_host = 2  # Ray takes 127.0.0.1 for the machine's outer address
        head = {"node_ip_address": self._new_address(), "include_dashboard": False, "_system_config": QUICK}
        self.cluster = Cluster(initialize_head=True, head_node_args=NODE | head | {"num_cpus": 0})
        self.nodes: list[Any] = []
        for _ in range(NODES):
            self.add_node()

    def add_node(self) -> None:
        self.nodes.append(self.cluster.add_node(node_ip_address=self._new_address(), **NODE))

    def overrides(self) -> list[str]:
        """What makes a sweep train here."""
        return ['executor="ray"', f'ray.address="{self.cluster.address}"']

    def workers(self) -> list[int]:
        """Processes that train."""
        return [child for node in self.nodes for child in children(_daemon(node)) if WORKER in cmdline(child)]

    def kill_daemon(self, rng: random.Random) -> None:
        """A node loses its daemon at once; then it is taken away whole and another one joins."""
        node = self.nodes.pop(rng.randrange(len(self.nodes)))
        os.kill(_daemon(node), signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)
        self.add_node()

    def close(self) -> None:
        self.cluster.shutdown()

    def _new_address(self) -> str:
        self.next_host += 1
        return f"127.0.{self.next_host // 250}.{self.next_host % 250 + 1}"


def _daemon(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
