"""The GPU's step on CPU: its batches are BatchStream's, and its steps are `train_step`'s. On a card, graph against eager."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sixnd.models.stack import StackedTransformer
from sixnd.models.transformer import Transformer
from sixnd.train.batches import BatchStream
from sixnd.train.corpus.store import Corpus, ShardedTokens
from sixnd.train.graph import GraphedStep, HostStream, ResidentStream, open_streams
from sixnd.train.loop import learning_rate, train_step
from sixnd.train.optimizer import MuonWithAdamW, build_optimizer
from sixnd.train.spec import RunSpec
from sixnd.train.stacked import StackedStep
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

CPU = torch.device("cpu")
STEPS = 20
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.fixture
def spec(run_spec: RunSpec) -> RunSpec:
    return run_spec.model_copy(update={"precision": "fp32", "tokens": STEPS * run_spec.batch_tokens})


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_resident_batches_are_the_streams_own(tmp_path: Path, dtype: str) -> None:
    """Over the border of two shards, and with ids beyond the signed range of their width."""
    ids = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, size=1000, endpoint=True).astype(dtype)
    for name, part in (("a", ids[:333]), ("b", ids[333:])):
        (tmp_path / name).write_bytes(part.tobytes())
    tokens = ShardedTokens([tmp_path / "a", tmp_path / "b"], np.dtype(dtype))
    streams = [BatchStream(tokens, 16, seed) for seed in (0, 5)]
    resident, host = ResidentStream.of(streams, CPU), HostStream(streams)
    for offset in range(0, 960, 64):
        batch = resident.batch(offset, 64)
        assert batch.dtype == torch.int64 and batch.shape == (2, 4, 17)
        assert torch.equal(batch, torch.stack([stream.batch(offset, 64) for stream in streams]))
        assert torch.equal(batch, host.batch(offset, 64))
    for stream in (resident, host):
        with pytest.raises(IndexError, match="beyond one epoch"):
            stream.batch(960, 64)
    assert isinstance(open_streams(tokens, 16, [0], CPU), HostStream)


Step = Callable[[torch.Tensor, int], float]


def plain(spec: RunSpec, device: torch.device, rows: int) -> Step:
    """`train_step` itself."""
    model = Transformer(spec.model).to(device)
    model.initialize(spec.seed)
    optimizer = build_optimizer(model, spec.optimizer)

    def step(windows: torch.Tensor, number: int) -> float:
        return float(train_step(model, optimizer, windows, learning_rate(spec, number), spec, rows)[0])

    return step


def graphed(spec: RunSpec, device: torch.device, rows: int, dtype: torch.dtype) -> Step:
    """The same behind a GraphedStep, its learning rate a tensor of `dtype` on the device."""
    model = Transformer(spec.model).to(device)
    model.initialize(spec.seed)
    optimizer = build_optimizer(model, spec.optimizer)
    step = GraphedStep(
        lambda windows, lr: train_step(model, optimizer, windows, lr, spec, rows),
        torch.tensor(spec.optimizer.lr, dtype=dtype, device=device),
        optimizer,
    )

    def number_of(windows: torch.Tensor, number: int) -> float:
        return float(step(windows, learning_rate(spec, number) / spec.optimizer.lr)[0])

    return number_of


def losses(step: Step, spec: RunSpec, corpus: Corpus) -> list[float]:
    stream = BatchStream(corpus.train, spec.model.context, spec.seed)
    return [step(stream.batch(n * spec.batch_tokens, spec.batch_tokens), n) for n in range(STEPS)]


@pytest.mark.parametrize("rows", [4, 1])
def test_without_a_card_a_graphed_step_is_the_plain_one(spec: RunSpec, corpus: Corpus, rows: int) -> None:
    """Within 1e-6: the learning rate, on the device, is rounded to fp32. Bit for bit where it is not rounded."""
    expected = losses(plain(spec, CPU, rows), spec, corpus)
    assert expected[-1] < expected[0] - 0.3
    assert losses(graphed(spec, CPU, rows, torch.float32), spec, corpus) == pytest.approx(expected, rel=1e-6)
    exact = spec.model_copy(
        update={
            "optimizer": spec.optimizer.model_copy(update={"lr": 2.0**-7}),
            "schedule": spec.schedule.model_copy(update={"cooldown": 0.0}),
        }
    )
    expected = losses(plain(exact, CPU, rows), exact, corpus)
    assert losses(graphed(exact, CPU, rows, torch.float32), exact, corpus) == expected


def test_muon_is_never_captured(spec: RunSpec, corpus: Corpus) -> None:
    muon = spec.model_copy(update={"optimizer": spec.optimizer.model_copy(update={"name": "muon"})})
    assert losses(graphed(muon, CPU, 4, torch.float64), muon, corpus) == losses(plain(muon, CPU, 4), muon, corpus)
    assert isinstance(build_optimizer(Transformer(muon.model), muon.optimizer), MuonWithAdamW)


def test_a_stacked_step_never_waits_for_the_device(spec: RunSpec) -> None:
    """On meta tensors, which hold no values: reading one, or mixing in one of the host's, raises."""
    meta = torch.device("meta")
    stack = StackedTransformer(spec.model, 2).to(meta)
    tokens, order = (
        torch.empty(1000, dtype=torch.int16, device=meta),
        torch.empty(2, 60, dtype=torch.int64, device=meta),
    )
    stream = ResidentStream(tokens, order, spec.model.context)
    step = GraphedStep(StackedStep(stack, [spec, spec], 2), torch.ones(2, dtype=torch.float64, device=meta))
    for offset in (0, 64):
        assert step(stream.batch(offset, 64), 0.5).shape == (2, 2)


def test_a_step_never_waits_for_the_device(spec: RunSpec) -> None:
    """On fake tensors, for the same reason; torch's fused AdamW and clipping know no meta tensors."""
    with FakeTensorMode():
        model = Transformer(spec.model)
        optimizer = build_optimizer(model, spec.optimizer)
        step = GraphedStep(
            lambda windows, lr: train_step(model, optimizer, windows, lr, spec, 2),
            torch.tensor(0.01),
            optimizer,
        )
        for group in optimizer.param_groups:
            group["capturable"] = True
        for _ in range(2):
            loss, _ = step(torch.zeros(4, 17, dtype=torch.int64), 0.5)
        with pytest.raises(DataDependentOutputException):
            float(loss)


def test_the_first_steps_after_a_captured_steps_checkpoint_are_eager_ones(spec: RunSpec) -> None:
    optimizer = build_optimizer(Transformer(spec.model), spec.optimizer)
    for group in optimizer.param_groups:
        group["capturable"] = True
    GraphedStep(lambda windows, _: windows, torch.tensor(1e-3), optimizer)
    assert not any(group["capturable"] for group in optimizer.param_groups)


@needs_card
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_card_the_graph_trains_as_the_eager_step(spec: RunSpec, corpus: Corpus, precision: str) -> None:
    spec, cuda = spec.model_copy(update={"precision": precision}), torch.device("cuda")
    expected = losses(plain(spec, cuda, 2), spec, corpus)
    assert losses(graphed(spec, cuda, 2, torch.float32), spec, corpus) == pytest.approx(expected, rel=1e-4)


@needs_card
def test_on_a_card_a_graphed_stack_trains_as_an_eager_one(spec: RunSpec, corpus: Corpus) -> None:
    cuda, specs = torch.device("cuda"), [spec, spec.model_copy(update={"seed": 1})]
    streams = [BatchStream(corpus.train, spec.model.context, s.seed) for s in specs]
    ends = []
    for device in (CPU, cuda):
        stack = StackedTransformer(spec.model, 2).to(device)
        stack.initialize_each([0, 1])
        step = GraphedStep(StackedStep(stack, specs, 4), torch.full((2,), spec.optimizer.lr, device=device).double())
        stream = ResidentStream.of(streams, device)
        seen = [step(stream.batch(n * 64, 64), 1.0).tolist() for n in range(STEPS)]
        ends.append(torch.tensor(seen)[:, 0])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-3)
