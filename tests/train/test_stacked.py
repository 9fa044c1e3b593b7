"""Stacked runs end where separate ones end, each with its own seed, rate, clip and decay; a diverged one goes alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sixnd.models.stack import StackedTransformer
from sixnd.models.transformer import Transformer
from sixnd.train import loop
from sixnd.train.batches import BatchStream
from sixnd.train.corpus.store import Corpus
from sixnd.train.device import micro_batch_rows
from sixnd.train.divergence import Diverged
from sixnd.train.graph import HostStream
from sixnd.train.loop import train, train_step
from sixnd.train.optimizer import build_optimizer
from sixnd.train.progress import Progress
from sixnd.train.spec import RunSpec
from sixnd.train.stacked import StackedStep, StackError, StackWatch, train_stacked

STEPS = 50


def quiet(_: str) -> None: ...


def variant(spec: RunSpec, seed: int, **settings: float) -> RunSpec:
    optimizer = spec.optimizer.model_copy(update=settings)
    return spec.model_copy(update={"seed": seed, "optimizer": optimizer})


@pytest.fixture
def specs(run_spec: RunSpec) -> list[RunSpec]:
    """Two seeds by two rates, and one run in which every other setting differs too."""
    spec = run_spec.model_copy(update={"precision": "fp32", "tokens": STEPS * run_spec.batch_tokens})
    odd = {"lr": 0.003, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 1.0, "clip_norm": 0.1, "z_loss": 0.01}
    return [*(variant(spec, seed, lr=lr) for seed in (0, 1) for lr in (0.005, 0.02)), variant(spec, 2, **odd)]


@pytest.fixture
def double() -> Iterator[None]:
    """Both programs wholly in fp64: norms, rotations and logits, which ask for fp32 by `.float()`, included.

    With those left in fp32 two fp64 programs agree no better than fp32 rounds, whatever their algebra: a last bit
    that differs can round to another fp32 number. Widened, what is left to differ is the algebra.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
    patch.setitem(loop.DTYPES, "fp32", torch.float64)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    patch.undo()


def worst_difference(specs: list[RunSpec], corpora: Path) -> float:
    """Of the test losses, relative; a single run's are the reference."""
    stacked = train_stacked(specs, corpora=corpora, listener=lambda _: None, say=quiet)
    differences = []
    for spec, record in zip(specs, stacked, strict=True):
        alone = train(spec, corpora=corpora, listener=lambda _: None, say=quiet)
        assert record.key == spec.key and record.state == alone.state == "done"
        assert record.test_loss is not None and alone.test_loss is not None
        assert record.model_dump(include={"D", "C_exact", "lr", "seed", "spec"}) == alone.model_dump(
            include={"D", "C_exact", "lr", "seed", "spec"}
        )
        differences.append(abs(record.test_loss / alone.test_loss - 1))
    assert len({record.test_loss for record in stacked}) == len(specs)
    return max(differences)


def test_fp32_stack_equals_separate_runs(specs: list[RunSpec], corpora: Path) -> None:
    assert worst_difference(specs, corpora) < 1e-4


def test_fp64_stack_equals_separate_runs(specs: list[RunSpec], corpora: Path, double: None) -> None:
    assert worst_difference(specs, corpora) < 1e-10


def stacked_step(specs: list[RunSpec], rows: int) -> StackedStep:
    stack = StackedTransformer(specs[0].model, len(specs))
    stack.initialize_each([spec.seed for spec in specs])
    return StackedStep(stack, specs, rows)


def batches(specs: list[RunSpec], corpus: Corpus) -> torch.Tensor:
    return HostStream([BatchStream(corpus.train, spec.model.context, spec.seed) for spec in specs]).batch(0, 64)


@pytest.mark.parametrize("rows", [4, 1])
def test_losses_and_norms_of_a_step_are_those_of_each_run(specs: list[RunSpec], corpus: Corpus, rows: int) -> None:
    """AdamW hides a gradient that is scaled wrongly; its norm does not."""
    windows, lr_M = batches(specs, corpus), torch.full((len(specs),), 0.01, dtype=torch.float64)
    seen = stacked_step(specs, rows)(windows, lr_M)
    for m, spec in enumerate(specs):
        model = Transformer(spec.model)
        model.initialize(spec.seed)
        alone = train_step(model, build_optimizer(model, spec.optimizer), windows[m], 0.01, spec, rows)
        torch.testing.assert_close(seen[:, m], torch.stack(alone))


def test_rows_of_a_stack_share_the_micro_batch(monkeypatch: pytest.MonkeyPatch, specs: list[RunSpec]) -> None:
    monkeypatch.setattr("sixnd.train.memory.CPU_MICRO_TOKENS", 4 * 16 * 3)
    assert [micro_batch_rows(specs[0].model, 64, torch.device("cpu"), "fp32", n) for n in (4, 1, 99)] == [2, 4, 1]


def test_a_lost_member_stays_as_it_is(specs: list[RunSpec], corpus: Corpus) -> None:
    step, windows = stacked_step(specs[:3], 4), batches(specs[:3], corpus)
    lr_M = torch.tensor([0.01, 1e30, 0.01], dtype=torch.float64)
    weights = []
    for n in range(4):
        step.optimizer.freeze([2] if n == 3 else [])
        step(windows, lr_M)
        weights.append(torch.cat([p.detach().flatten(1) for p in step.stack.parameters()], dim=1).clone())
    assert weights[1][1].isfinite().all() and torch.equal(weights[1][1], weights[3][1])
    assert torch.equal(weights[2][2], weights[3][2]) and not torch.equal(weights[1][2], weights[2][2])
    assert weights[3][0].isfinite().all() and not torch.equal(weights[2][0], weights[3][0])
    assert step.optimizer.alive_M.tolist() == [True, False, False]


def test_a_diverged_member_leaves_the_others_alone(specs: list[RunSpec], corpora: Path) -> None:
    hot = variant(specs[0], 7, lr=1e30)
    cold, dead, warm = train_stacked([specs[0], hot, specs[1]], corpora=corpora, listener=lambda _: None, say=quiet)
    alone = train(hot, corpora=corpora, listener=lambda _: None, say=quiet)
    assert (dead.state, dead.test_loss) == (alone.state, None) == ("diverged", None)
    assert dead.error == alone.error
    undisturbed = train_stacked(specs[:2], corpora=corpora, listener=lambda _: None, say=quiet)
    assert [cold.test_loss, warm.test_loss] == pytest.approx([r.test_loss for r in undisturbed], rel=1e-4)
    assert cold.state == warm.state == "done"


def test_a_stack_that_is_lost_ends_early(specs: list[RunSpec], corpora: Path) -> None:
    seen: list[Progress] = []
    hot = [variant(spec, spec.seed, lr=1e30) for spec in specs[:2]]
    records = train_stacked(hot, corpora=corpora, listener=seen.append, say=quiet)
    assert {record.state for record in records} == {"diverged"} and not seen


def test_a_loss_above_its_start_is_noticed_for_its_member_only(specs: list[RunSpec]) -> None:
    watch = StackWatch(specs[:2])
    for step in range(1, 300):
        watch.note(step, torch.tensor([[9.0 if step > 1 else 5.0, 4.0], [1.0, 1.0]]))
    assert watch.look() == [4.0]
    assert (
        list(watch.ended) == [0] and isinstance(watch.ended[0], Diverged) and "above its start" in watch.ended[0].what
    )


def test_progress_is_of_the_whole_stack(specs: list[RunSpec], corpora: Path) -> None:
    seen: list[Progress] = []
    train_stacked(specs[:2], corpora=corpora, listener=seen.append, say=quiet)
    assert [p.tokens for p in seen] == [64 * step for step in range(10, STEPS + 1, 10)]
    assert seen[-1].total == specs[0].tokens and math.isfinite(seen[-1].loss) and seen[-1].tokens_per_s > 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens": 640}, "tokens"),
        ({"batch_tokens": 32}, "batch_tokens"),
        ({"precision": "bf16"}, "precision"),
        ({"corpus": "other"}, "corpus"),
    ],
)
def test_unlike_runs_are_refused_in_one_line(specs: list[RunSpec], change: dict[str, object], named: str) -> None:
    with pytest.raises(StackError, match=f"run 2: {named} is not that of run 1") as error:
        train_stacked([specs[0], specs[1].model_copy(update=change)], say=quiet)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_other_shapes_schedules_and_optimizers_are_refused(specs: list[RunSpec]) -> None:
    first = specs[0]
    schedule = first.schedule.model_copy(update={"p": 0.5})
    model = first.model.model_copy(update={"n_layers": 2})
    for change, named in (({"schedule": schedule}, "schedule"), ({"model": model}, "model")):
        with pytest.raises(StackError, match=f"run 2: {named} "):
            train_stacked([first, first.model_copy(update=change)], say=quiet)
    muon = first.model_copy(update={"optimizer": first.optimizer.model_copy(update={"name": "muon"})})
    with pytest.raises(StackError, match=r"run 1: optimizer\.name = muon"):
        train_stacked([muon], say=quiet)
    with pytest.raises(StackError, match="no runs"):
        train_stacked([], say=quiet)
