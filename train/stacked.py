"""Runs of one shape (seeds x learning rates) trained as one program, each with its own weights, data and optimizer.

Shape suffixes: M models (runs of the stack), W windows (sequences) of one model, T time (tokens), B batch (M·W).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.stack import StackedTransformer
from ..models.transformer import Transformer
from .checkpoint import Checkpoints
from .corpus.build import open_corpus
from .corpus.store import Corpus
from .curve import curve_steps
from .device import compile_model, device_name, micro_batch_rows, pick_device
from .divergence import Diverged, LossWatch, Memory
from .documents import save_document_losses
from .evaluate import HeldOutLoss, HeldOutWindows, evaluate
from .graph import GraphedStep, open_streams
from .loop import CHECKPOINT_SECONDS, DTYPES, LOG_EVERY, Stopped, check_fits, learning_rate, never
from .machine import how_trained
from .progress import Listener, Progress, StepClock, TqdmListener
from .record import CurvePoint, RunRecord
from .result import diverged_in_words, record_of
from .spec import RunSpec, Stack
from .stacked_optimizer import Settings, StackedAdamW

OWN = {"seed", "optimizer"}  # what members of a stack may differ in


class StackError(ValueError):
    """Runs that cannot be trained as one program; its message is one line."""

    exit_code = 2


def check_stackable(specs: Sequence[RunSpec]) -> None:
    """Raises StackError unless the specs differ in nothing but seed and AdamW's settings."""
    if not specs:
        raise StackError("no runs to stack")
    documents = [spec.model_dump(exclude=OWN) for spec in specs]
    for number, (spec, document) in enumerate(zip(specs, documents, strict=True), start=1):
        if spec.optimizer.name != "adamw":
            raise StackError(f"run {number}: optimizer.name = {spec.optimizer.name}; stacked runs are trained by adamw")
        for key, value in document.items():
            if value != documents[0][key]:
                raise StackError(
                    f"run {number}: {key} is not that of run 1; stacked runs share all but seed and optimizer"
                )


class StackedStep:
    """One step of every model of a stack; the body of a `GraphedStep`."""

    def __init__(self, stack: StackedTransformer, specs: Sequence[RunSpec], rows: int) -> None:
        self.stack, self.rows, self.dtype = stack, rows, DTYPES[specs[0].precision]
        self.optimizer = StackedAdamW(stack, Settings.of(specs, stack.embedding.device))

    def __call__(self, windows_MWT: Tensor, lr_M: Tensor) -> Tensor:
        """One step of AdamW on each model's mean loss, `rows` windows of each at a time.

        Args:
            windows_MWT: int64, (M, W, context + 1), on the device.
            lr_M: learning rates.

        Returns (2, M): mean losses in nats per token, without z-loss, and norms of the gradients before clipping.
        """
        micro_batches = windows_MWT.split(self.rows, dim=1)
        z_loss_M = self.optimizer.settings.z_loss_M.to(self.stack.embedding.dtype)
        total_M = torch.zeros_like(z_loss_M)
        for micro_MWT in micro_batches:
            micro_BT = micro_MWT.flatten(0, 1)
            objective_M, loss_M = self.stack(micro_BT[:, :-1], micro_BT[:, 1:], self.dtype, z_loss_M)
            (objective_M.sum() / len(micro_batches)).backward()
            total_M += loss_M / len(micro_batches)
        return torch.stack((total_M, self.optimizer.step(total_M, lr_M)))


class StackWatch:
    """A `LossWatch` for each model. Values are kept on the device and fetched for all models at once."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self.watches = [LossWatch.of(spec) for spec in specs]
        self.ended: dict[int, Diverged] = {}
        self._noted: list[tuple[int, Tensor]] = []

    def note(self, step: int, seen_2M: Tensor) -> None:
        """Remembers losses and gradient norms of a step, counted from 1."""
        self._noted.append((step, seen_2M.clone()))

    def look(self) -> list[float]:
        """Judges all steps noted since the last look; the newest losses of the models that are still going."""
        if self._noted:
            steps = [step for step, _ in self._noted]
            values_S2M = torch.stack([seen for _, seen in self._noted]).cpu()
            self._noted.clear()
            for m, watch in enumerate(self.watches):
                try:
                    for step, (loss, norm) in zip(steps, values_S2M[:, :, m].unbind(), strict=True):
                        if m not in self.ended:
                            watch.note(step, loss, norm)
                    watch.look()
                except Diverged as end:
                    self.ended[m] = end
        return [watch.look() for m, watch in enumerate(self.watches) if m not in self.ended]

    def state_dict(self) -> dict[str, Any]:
        ended = {m: (end.what, end.step, end.last_finite) for m, end in self.ended.items()}
        return {"memories": [watch.state_dict() for watch in self.watches], "ended": ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for watch, memory in zip(self.watches, state["memories"], strict=True):
            watch.memory = Memory(**memory)
        self.ended = {m: Diverged(*end) for m, end in state["ended"].items()}


@dataclass
class StackState:
    """All that a step of a stack changes; the counterpart of `TrainState`."""

    stack: StackedTransformer
    optimizer: StackedAdamW
    watch: StackWatch
    step: int = 0
    curves: list[dict[int, CurvePoint]] = field(default_factory=list)  # of each model, by steps done

    def state_dict(self) -> dict[str, Any]:
        curves = [{step: tuple(point) for step, point in curve.items()} for curve in self.curves]
        parts: dict[str, Any] = {"model": self.stack, "optimizer": self.optimizer, "watch": self.watch}
        return {"step": self.step, "curves": curves} | {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stack.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.watch.load_state_dict(state["watch"])
        self.step = state["step"]
        self.curves = [{step: CurvePoint(*point) for step, point in curve.items()} for curve in state["curves"]]

    def curve_of(self, model: int, spec: RunSpec) -> tuple[CurvePoint, ...]:
        """Its points so far. A checkpoint of the trunk may hold the last point of a shorter run, which is none of this one."""
        points = curve_steps(spec.n_steps, spec.batch_tokens)
        return tuple(self.curves[model][step] for step in points if step in self.curves[model])


def train_stacked(
    specs: Sequence[RunSpec],
    *,
    corpora: Path | None = None,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    documents: Path | None = None,
    listener: Listener | None = None,
    say: Callable[[str], None] = print,
    stop: Callable[[], bool] = never,
) -> list[RunRecord]:
    """Trains runs that differ in nothing but seed and AdamW's settings as one program; returns a record of each.

    Each record agrees with that of `train` within rounding. One whose loss diverges ends as `diverged`; the others
    go on. `wall_s` is a run's share of the whole, `tokens_per_s` the speed of the whole. Runs of the same models and
    another D share the stack's trunk, as single runs do theirs.

    Args:
        specs: the runs.
        corpora: folder of built corpora; None for the default one.
        checkpoints: folder of checkpoints; None keeps none.
        checkpoint_seconds: training time between periodic checkpoints, in seconds.
        documents: folder for the losses of the held-out documents, one small file a run.
        listener: told of the progress every few steps, with the mean loss of the runs that are still going; a tqdm bar
            where none is given.
        say: receives the few lines worth printing.
        stop: asked after every step; once it says yes, a checkpoint is written and the runs end as `Stopped`.

    Raises:
        Stopped: as `stop` asked.
        StackError: the runs differ in more than that.
        RunError: D is beyond the unique tokens of the corpus, or the model does not fit its vocabulary.
        CorpusError: the corpus is missing or damaged.
    """
    started = time.perf_counter()
    check_stackable(specs)
    corpus, spec = open_corpus(specs[0].corpus, corpora), specs[0]
    check_fits(spec, corpus)
    device, n_models = pick_device(), len(specs)
    stack = StackedTransformer(spec.model, n_models).to(device)
    stack.initialize_each([spec.seed for spec in specs])
    step = StackedStep(stack, specs, micro_batch_rows(spec.model, spec.batch_tokens, device, spec.precision, n_models))
    state = StackState(stack, step.optimizer, StackWatch(specs), curves=[{} for _ in specs])
    kept = Checkpoints(checkpoints, Stack(tuple(specs))) if checkpoints else None
    if kept:
        kept.load_newest(state)
    compiled, clock = compile_model(stack, DTYPES[spec.precision], say), StepClock()
    with TqdmListener(f"{n_models} x N {spec.model.n_total:,}") if listener is None else nullcontext(listener) as heard:
        run_stacked_steps(specs, corpus, state, step, heard, clock, kept, checkpoint_seconds, stop)
    losses = evaluate_each(spec, corpus, state, HeldOutWindows.of(corpus, spec.model.context, spec.held_out))
    for m, loss in losses.items():
        if documents:
            save_document_losses(documents, specs[m].key, loss)
    if kept:
        kept.finish()
    wall_s = (time.perf_counter() - started) / n_models
    how = f"{how_trained(device_name(device), compiled, spec.precision)}, one of {n_models} stacked"
    errors = {
        m: diverged_in_words(end, learning_rate(specs[m], end.step - 1), spec.n_steps)
        for m, end in state.watch.ended.items()
    }
    speed = clock.tokens_per_s
    return [
        record_of(spec, corpus, losses.get(m), errors.get(m), state.curve_of(m, spec), speed, wall_s, how)
        for m, spec in enumerate(specs)
    ]


def run_stacked_steps(
    specs: Sequence[RunSpec],
    corpus: Corpus,
    state: StackState,
    step: StackedStep,
    listener: Listener,
    clock: StepClock,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    stop: Callable[[], bool] = never,
) -> None:
    """Trains every model of the stack from where it stands to the end of its run, or until none is left.

    Raises:
        Stopped: `stop` said so.
    """
    spec, device, watch = specs[0], state.stack.embedding.device, state.watch
    stream = open_streams(corpus.train, spec.model.context, [spec.seed for spec in specs], device)
    peak_lr_M = torch.tensor([spec.optimizer.lr for spec in specs], dtype=torch.float64, device=device)
    graphed = GraphedStep(step, peak_lr_M)
    sample = HeldOutWindows.of(corpus, spec.model.context, spec.held_out).sample()
    points = curve_steps(spec.n_steps, spec.batch_tokens)
    saved_at = time.perf_counter()
    while state.step < spec.n_steps:
        windows_MWT = stream.batch(state.step * spec.batch_tokens, spec.batch_tokens)
        seen_2M = graphed(windows_MWT, learning_rate(spec, state.step) / spec.optimizer.lr)
        state.step += 1
        watch.note(state.step, seen_2M)
        clock.tick(len(specs) * spec.batch_tokens)
        stopped = stop() and state.step < spec.n_steps
        due = stopped or state.step == spec.branch_step or time.perf_counter() - saved_at >= checkpoint_seconds
        if due or state.step % LOG_EVERY == 0 or state.step in points:
            newest = watch.look()
            if not newest:
                return
            state.optimizer.freeze(watch.ended)
            mean = sum(newest) / len(newest)
            listener(Progress(state.step * spec.batch_tokens, spec.tokens, mean, clock.tokens_per_s or 0.0))
        if state.step in points:  # before a checkpoint of this step, which must hold it
            with clock.paused():
                for m, loss in evaluate_each(spec, corpus, state, sample).items():
                    state.curves[m][state.step] = loss.point(state.step * spec.batch_tokens)
        if checkpoints and due:
            with clock.paused():
                checkpoints.save(state)
            saved_at = time.perf_counter()
        if stopped:
            curves = {spec.key: state.curve_of(m, spec) for m, spec in enumerate(specs)}
            raise Stopped(f"stopped after step {state.step} of {spec.n_steps}, as asked", curves)


def evaluate_each(spec: RunSpec, corpus: Corpus, state: StackState, windows: HeldOutWindows) -> dict[int, HeldOutLoss]:
    """The held-out loss of every model that has not diverged, one after another in a single one's module."""
    device = state.stack.embedding.device
    one = Transformer(spec.model).to(device)
    compile_model(one, DTYPES[spec.precision], lambda _: None)
    rows = micro_batch_rows(spec.model, spec.batch_tokens, device, spec.precision)
    losses = {}
    for m in range(state.stack.n_models):
        if m in state.watch.ended:
            continue
        one.load_state_dict(state.stack.state_of_one(m))
        loss = evaluate(one, corpus, windows, rows, DTYPES[spec.precision])
        if math.isfinite(loss.mean):
            losses[m] = loss
        else:
            last = state.watch.watches[m].memory.last_finite
            state.watch.ended[m] = Diverged("held-out loss is not finite", state.step, last)
    return losses
