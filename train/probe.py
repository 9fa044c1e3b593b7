"""How fast this machine trains a few shapes, with every slot busy: `python -m sixnd.train.probe`, request and answer as JSON.

It runs in its own process, so that a driver that plans and waits never holds torch. Each shape is timed eagerly, for compiling one
takes longer than all of that; what compilation gains is measured on the middle one and taken for all. Its code stays in torch's cache, so
that a sweep which trains that shape finds it there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..models.config import ModelConfig
from ..models.transformer import Transformer
from .device import compile_model, device_name, micro_batch_rows, pick_device, usual_slots
from .machine import has_compiler, usable_cores, worker_environment
from .optimizer import build_optimizer
from .settings import OptimizerSettings
from .speed import Probed, ProbeRequest

LEAST_REPEATS, MOST_REPEATS = 2, 50
COMPANION = "--companion"


@dataclass(frozen=True)
class Trial:
    """A model that can be trained for a step, and the tokens of such a step."""

    step: Callable[[], None]
    tokens: int

    @classmethod
    def of(cls, config: ModelConfig, batch_tokens: int, device: torch.device, compiled: bool) -> Trial:
        model = Transformer(config).to(device)
        model.initialize(0)
        optimizer = build_optimizer(model, OptimizerSettings(lr=1e-3, beta2=0.99))
        if compiled:
            compile_model(model, lambda _: None)
        rows = micro_batch_rows(batch_tokens, config.context, device)
        tokens = torch.zeros(rows, config.context, dtype=torch.int64, device=device)

        def step() -> None:
            objective, _ = model(tokens, tokens, torch.bfloat16)
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return cls(step, rows * config.context)

    def tokens_per_s(self, seconds: float) -> float:
        """The median of the steps that fit into the time; the first one warms up and does not count."""
        self.step()
        deadline, took = time.perf_counter() + seconds, list[float]()
        while len(took) < LEAST_REPEATS or (len(took) < MOST_REPEATS and time.perf_counter() < deadline):
            start = time.perf_counter()
            self.step()
            took.append(time.perf_counter() - start)
        return self.tokens / sorted(took)[len(took) // 2]


def probe(request: ProbeRequest) -> Probed:
    """Times each shape within its share of the allowed seconds, while the other slots' cores work as well."""
    torch.set_num_threads(1)
    device = pick_device()
    slots = request.slots or usual_slots()
    compiled = has_compiler() and os.environ.get("TORCHDYNAMO_DISABLE") != "1"
    trials = [Trial.of(model, request.batch_tokens, device, compiled=False) for model in request.models]
    middle = len(trials) // 2
    fast = Trial.of(request.models[middle], request.batch_tokens, device, compiled)
    if compiled:  # before the other cores are kept busy
        fast.step()
        fast.step()
    companions = [] if device.type == "cuda" else _companions(min(slots, usable_cores()) - 1)
    try:
        share = request.seconds / (len(trials) + 1)
        speeds = [trial.tokens_per_s(share) for trial in trials]
        gain = fast.tokens_per_s(share) / speeds[middle] if compiled else 1.0
    finally:
        for companion in companions:
            companion.kill()
            companion.wait()
    return Probed(
        device=device_name(device),
        kind="cuda" if device.type == "cuda" else "cpu",
        memory_bytes=_memory_bytes(device),
        slots=slots,
        compiled=compiled,
        models=request.models,
        tokens_per_s=tuple(gain * speed for speed in speeds),
    )


def _companions(n: int) -> list[subprocess.Popen[bytes]]:
    """Processes that keep the other cores as busy as workers would."""
    command = [sys.executable, "-m", "sixnd.train.probe", COMPANION]
    running = [
        subprocess.Popen(command, env=os.environ | worker_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(n)
    ]
    for companion in running:
        assert companion.stdout is not None
        companion.stdout.readline()  # it is past its imports
    return running


def _keep_busy() -> None:
    """Multiplies until the probe that started this is gone."""
    torch.set_num_threads(1)
    parent, matrix = os.getppid(), torch.ones(512, 512, dtype=torch.bfloat16)
    print(flush=True)
    while os.getppid() == parent:
        for _ in range(20):
            matrix = (matrix @ matrix).clamp(-1, 1)


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    if COMPANION in sys.argv:
        _keep_busy()
    else:
        print(probe(ProbeRequest.model_validate_json(sys.stdin.read())).model_dump_json())
