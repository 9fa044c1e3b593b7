"""When a run has diverged, decided for each step exactly, though losses are looked at only now and then."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from .spec import RunSpec

MARGIN = 0.2  # nats per token above the start: several standard errors of one batch's loss
PATIENCE = 200  # consecutive steps


class Diverged(Exception):
    """The run is lost: what was seen, after how many steps, and the last finite loss before it (None: there was none)."""

    def __init__(self, what: str, step: int, last_finite: float | None) -> None:
        super().__init__(what)
        self.what, self.step, self.last_finite = what, step, last_finite


@dataclass
class Memory:
    """What the losses so far left behind: a function of the steps alone, so that a checkpoint can carry it."""

    start: float | None = None  # loss of the first step
    last_finite: float | None = None
    high_steps: int = 0  # consecutive ones above the ceiling, up to now


@dataclass
class LossWatch:
    """Ends a run whose loss or gradient is not finite, or whose loss stays above its start.

    The second rule: after warm-up, PATIENCE steps in a row each with a loss more than MARGIN above both the first
    step's and ln V, that of a uniform guess. Such a model is worse than untrained, and is not coming back.

    `note` keeps a step's values on the device; `look` fetches them all at once and judges them in order, so that
    when it is called does not change which step is blamed.
    """

    uniform: float  # ln V
    warmup_steps: int
    memory: Memory = field(default_factory=Memory)
    _noted: list[tuple[int, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, spec: RunSpec) -> LossWatch:
        return cls(math.log(spec.model.vocab_size), spec.schedule.warmup_tokens // spec.batch_tokens)

    def note(self, step: int, loss: Tensor, gradient_norm: Tensor) -> None:
        """Remembers the scalars of a step, counted from 1, without waiting for the device."""
        self._noted.append((step, torch.stack((loss, gradient_norm))))

    def look(self) -> float:
        """Judges all steps noted since the last look; returns the newest loss, nan before the first step.

        Raises:
            Diverged: at the first step that shows it.
        """
        if self._noted:
            values = torch.stack([pair for _, pair in self._noted]).tolist()
            steps = [step for step, _ in self._noted]
            self._noted.clear()
            for step, (loss, gradient_norm) in zip(steps, values, strict=True):
                self._judge(step, loss, gradient_norm)
        return math.nan if self.memory.last_finite is None else self.memory.last_finite

    def _judge(self, step: int, loss: float, gradient_norm: float) -> None:
        memory = self.memory
        if not math.isfinite(loss):
            raise Diverged("loss is not finite", step, memory.last_finite)
        memory.last_finite = loss
        if not math.isfinite(gradient_norm):
            raise Diverged("gradient is not finite", step, loss)
        if memory.start is None:
            memory.start = loss
        ceiling = max(memory.start, self.uniform) + MARGIN
        memory.high_steps = memory.high_steps + 1 if loss > ceiling and step > self.warmup_steps else 0
        if memory.high_steps == PATIENCE:
            raise Diverged(f"loss above its start ({memory.start:.2f}) for {PATIENCE} steps", step, loss)

    def state_dict(self) -> dict[str, float | int | None]:
        return asdict(self.memory)

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        self.memory = Memory(**state)  # type: ignore[arg-type]
