"""Runs of one shape (seeds x learning rates) trained as one program, each with its own weights, data and optimizer.

Shape suffixes: M models (runs of the stack), W windows (sequences) of one model, T time (tokens), B batch (M·W).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.stack import StackedTransformer
from ..models.transformer import Transformer
from .corpus.build import open_corpus
from .corpus.store import Corpus
from .device import CPU_MICRO_TOKENS, CUDA_MICRO_TOKENS, compile_model, device_name, micro_batch_rows, pick_device
from .divergence import Diverged, LossWatch
from .evaluate import HeldOutLoss, HeldOutWindows, evaluate
from .graph import GraphedStep, open_streams
from .loop import DTYPES, LOG_EVERY, check_fits, learning_rate
from .progress import Listener, Progress, StepClock, TqdmListener
from .record import RunRecord
from .result import diverged_in_words, record_of
from .spec import RunSpec

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


class Settings(NamedTuple):
    """AdamW's settings, one of each for every model, fp64: as Python's own numbers are in torch.optim."""

    beta1_M: Tensor
    beta2_M: Tensor
    eps_M: Tensor
    weight_decay_M: Tensor
    clip_norm_M: Tensor
    z_loss_M: Tensor

    @classmethod
    def of(cls, specs: Sequence[RunSpec], device: torch.device) -> Settings:
        names = (field.removesuffix("_M") for field in cls._fields)
        columns = ([getattr(spec.optimizer, name) for spec in specs] for name in names)
        return cls(*(torch.tensor(column, dtype=torch.float64, device=device) for column in columns))


class StackedAdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with settings of its own for each model of a stack.

    The same update as torch.optim.AdamW, whose settings are scalars. Nothing here waits for the device.
    """

    def __init__(self, stack: StackedTransformer, settings: Settings) -> None:
        self.parameters, self.settings = list(stack.parameters()), settings
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        device = stack.embedding.device
        self.n_steps = torch.zeros((), dtype=torch.float64, device=device)
        self.alive_M = torch.ones(stack.n_models, dtype=torch.bool, device=device)
        # One kernel a parameter instead of a dozen; on CPU compiling takes longer than it saves.
        self.update = torch.compile(adamw_update) if device.type == "cuda" else adamw_update

    @torch.no_grad()
    def step(self, loss_M: Tensor, lr_M: Tensor) -> Tensor:
        """Clips each model's gradient, updates its weights, and clears the gradients; returns the norms (M,) before.

        From the first loss or gradient that is not finite on, a model stays as it is.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm_M = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]).square().sum(0).sqrt()
        self.alive_M.logical_and_(loss_M.isfinite() & norm_M.isfinite())
        self.n_steps.add_(1)
        share_M = (self.settings.clip_norm_M / (norm_M + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_ does
        for p, g, mean, square in zip(self.parameters, gradients, self.means, self.squares, strict=True):
            self.update(p, g, mean, square, self.settings, share_M, lr_M, self.alive_M, self.n_steps)
            p.grad = None
        return norm_M

    def freeze(self, models: Iterable[int]) -> None:
        """Leaves these as they are from now on."""
        for m in models:
            self.alive_M[m] = False


def adamw_update(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    settings: Settings,
    share_M: Tensor,
    lr_M: Tensor,
    alive_M: Tensor,
    n_steps: Tensor,
) -> None:
    """Updates one parameter (M, ...) and its moments in place; `share_M` of the gradient is left by the clip.

    `n_steps` counts this step. Models that are not alive keep their weights.
    """

    def wide(x_M: Tensor) -> Tensor:
        return x_M.to(parameter.dtype).view(-1, *[1] * (parameter.ndim - 1))

    beta1_M, beta2_M, lr_M = settings.beta1_M, settings.beta2_M, lr_M * alive_M
    gradient = torch.where(wide(alive_M) > 0, gradient * wide(share_M), 0.0)
    mean.lerp_(gradient, wide(1 - beta1_M))
    square.mul_(wide(beta2_M)).addcmul_(gradient, gradient * wide(1 - beta2_M))
    if parameter.ndim > 2:  # a matrix of each model; gains do not decay
        parameter.mul_(wide(1 - lr_M * settings.weight_decay_M))
    root = (square / wide(1 - beta2_M**n_steps)).sqrt() + wide(settings.eps_M)
    parameter.sub_(mean / root * wide(lr_M / (1 - beta1_M**n_steps)))


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


def stacked_rows(n_models: int, batch_tokens: int, context: int, device: torch.device) -> int:
    """Windows of each model in one micro-batch: the largest divisor of its batch with which all of them fit the device."""
    windows = batch_tokens // context
    most = (CUDA_MICRO_TOKENS if device.type == "cuda" else CPU_MICRO_TOKENS) // (n_models * context)
    return max(n for n in range(1, windows + 1) if windows % n == 0 and n <= max(1, most))


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
        steps = [step for step, _ in self._noted]
        values_S2M = torch.stack([seen for _, seen in self._noted]).cpu()
        self._noted.clear()
        newest = []
        for m, watch in enumerate(self.watches):
            if m in self.ended:
                continue
            try:
                for step, (loss, norm) in zip(steps, values_S2M[:, :, m].unbind(), strict=True):
                    watch.note(step, loss, norm)
                newest.append(watch.look() or math.nan)
            except Diverged as end:
                self.ended[m] = end
        return newest


def train_stacked(
    specs: Sequence[RunSpec],
    *,
    corpora: Path | None = None,
    listener: Listener | None = None,
    say: Callable[[str], None] = print,
) -> list[RunRecord]:
    """Trains runs that differ in nothing but seed and AdamW's settings as one program; returns a record of each.

    Each record agrees with that of `train` within rounding. One whose loss diverges ends as `diverged`; the others
    go on. `wall_s` is a run's share of the whole, `tokens_per_s` the speed of the whole.

    Args:
        specs: the runs.
        corpora: folder of built corpora; None for the default one.
        listener: told of the progress every few steps, with the mean loss of the runs that are still going; a tqdm bar
            where none is given.
        say: receives the few lines worth printing.

    Raises:
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
    compiled = compile_model(stack, say)
    watch, clock = StackWatch(specs), StepClock()
    with TqdmListener(f"{n_models} x N {spec.model.n_total:,}") if listener is None else nullcontext(listener) as heard:
        run_stacked_steps(specs, corpus, stack, watch, heard, clock)
    losses = evaluate_each(spec, corpus, stack, watch)
    wall_s = (time.perf_counter() - started) / n_models
    how = f"{device_name(device)}, {'compiled' if compiled else 'eager'} {spec.precision}, one of {n_models} stacked"
    errors = {
        m: diverged_in_words(end, learning_rate(specs[m], end.step - 1), spec.n_steps) for m, end in watch.ended.items()
    }
    return [
        record_of(spec, corpus, losses.get(m), errors.get(m), (), clock.tokens_per_s, wall_s, how)
        for m, spec in enumerate(specs)
    ]


def run_stacked_steps(
    specs: Sequence[RunSpec],
    corpus: Corpus,
    stack: StackedTransformer,
    watch: StackWatch,
    listener: Listener,
    clock: StepClock,
) -> None:
    """Trains every model of the stack to the end of its run, or until none is left."""
    spec, device = specs[0], stack.embedding.device
    stream = open_streams(corpus.train, spec.model.context, [spec.seed for spec in specs], device)
    body = StackedStep(stack, specs, stacked_rows(len(specs), spec.batch_tokens, spec.model.context, device))
    peak_lr_M = torch.tensor([spec.optimizer.lr for spec in specs], dtype=torch.float64, device=device)
    graphed = GraphedStep(body, peak_lr_M)
    for step in range(spec.n_steps):
        windows_MWT = stream.batch(step * spec.batch_tokens, spec.batch_tokens)
        seen_2M = graphed(windows_MWT, learning_rate(spec, step) / spec.optimizer.lr)
        watch.note(step + 1, seen_2M)
        clock.tick(len(specs) * spec.batch_tokens)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == spec.n_steps:
            newest = watch.look()
            if not newest:
                return
            body.optimizer.freeze(watch.ended)
            mean = sum(newest) / len(newest)
            listener(Progress((step + 1) * spec.batch_tokens, spec.tokens, mean, clock.tokens_per_s or 0.0))


def evaluate_each(
    spec: RunSpec, corpus: Corpus, stack: StackedTransformer, watch: StackWatch
) -> dict[int, HeldOutLoss]:
    """The held-out loss of every model that has not diverged, one after another in a single one's module."""
    device = stack.embedding.device
    one = Transformer(spec.model).to(device)
    compile_model(one, lambda _: None)
    windows = HeldOutWindows.of(corpus, spec.model.context)
    rows = micro_batch_rows(spec.batch_tokens, spec.model.context, device)
    losses = {}
    for m in range(stack.n_models):
        if m in watch.ended:
            continue
        one.load_state_dict(stack.state_of_one(m))
        loss = evaluate(one, corpus, windows, rows, DTYPES[spec.precision])
        if math.isfinite(loss.mean):
            losses[m] = loss
        else:
            watch.ended[m] = Diverged("test loss is not finite", spec.n_steps, watch.watches[m].memory.last_finite)
    return losses
