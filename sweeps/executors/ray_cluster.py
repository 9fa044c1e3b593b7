"""Joins a Ray cluster, or starts one on this machine, with Ray's own settings made before it is imported."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from typing import Any

from ...train.machine import usable_cores
from ..stopping import handlers_kept
from ..toml import SpecError

KNOCK_S = 5.0
OBJECT_STORE_BYTES = 100 << 20  # of a cluster started here: results are a few kB


def connect(address: str) -> Any:
    """Ray, connected. Its settings must be in the environment before it is imported."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started_here: dict[str, Any] = {}
    if ":" in address:
        _knock("ray.address", address)
    elif address == "auto" and ":" in (named := os.environ.get("RAY_ADDRESS", "")):
        _knock("RAY_ADDRESS", named)
    if address == "local":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # handed to the daemons, and written nowhere
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # whatever its name, Linux too then stays on 127.0.0.1
        started_here = {
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise SpecError("executor = 'ray' needs Ray: pip install 'sixnd[ray]'") from None
    try:
        with handlers_kept():  # Ray's own would end the driver at SIGTERM, with its runs
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **started_here)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise SpecError(
            f"ray.address = {address!r}: {last_line(error)}; `ray start --head` starts a cluster, ray.address=local one"
            " for this command, and RAY_AUTH_TOKEN_PATH names the file of a cluster's token"
        ) from None
    return ray


def _knock(key: str, address: str) -> None:
    """Whether anything listens at HOST:PORT or ray://HOST:PORT: Ray itself tries for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{key} = {address!r}: nothing answers there ({error}); `ray start --head` starts a cluster,"
            " ray.address=local one for this command"
        ) from None


def last_line(error: Exception) -> str:
    """Ray quotes whole tracebacks; what happened comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
