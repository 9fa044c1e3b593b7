"""The fused head: equal to the plain one in fp64, forward and backward, whatever the sizes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.cross_entropy import Gradients, gradients_in_pieces, piece_of_cross_entropy
from sixnd.models.transformer import Transformer, score_head
from sixnd.train.device import native_precision
from sixnd.train.loop import DTYPES
from sixnd.train.machine import fuses
from sixnd.train.native.cross_entropy import fused_cross_entropy, fused_scores
from sixnd.train.native.fuse import fuse_model
from torch import Tensor

NATIVE = DTYPES[native_precision(torch.device("cpu"))]  # bf16 where the processor multiplies it
DTYPES_HERE = [torch.float32] if torch.float32 == NATIVE else [torch.float32, NATIVE]
Z_LOSS = 1e-2

pytestmark = pytest.mark.skipif(
    not fuses(ModelConfig.from_shape(1, 32, 300, 48)), reason="no C++ compiler on this machine, or none that fuses"
)


def off(x: Tensor, right: Tensor) -> float:
    return float((x.double() - right).norm() / right.norm().clamp_min(1e-9))


plain_cross_entropy = partial(gradients_in_pieces, piece_of_cross_entropy)


@pytest.mark.parametrize("dtype", DTYPES_HERE)
@pytest.mark.parametrize(
    ("tokens", "width", "vocabulary"), [(1, 16, 33), (100, 32, 300), (129, 48, 1024), (256, 80, 64)]
)
def test_gradients(tokens: int, width: int, vocabulary: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, width, generator=generator).to(dtype)
    gain = torch.rand(width, generator=generator) + 0.5
    weight = torch.randn(vocabulary, width, generator=generator).mul(0.5).to(dtype).float()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    right = plain_cross_entropy(x.double(), gain.double(), 1e-5, weight.double(), targets, Z_LOSS)
    inputs = (x, gain, 1e-5, weight, targets, Z_LOSS)
    fused, plain = fused_cross_entropy(dtype)(*inputs), plain_cross_entropy(*inputs)
    for name, exact, ours, theirs in zip(Gradients._fields, right, fused, plain, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name
        # In bf16 no worse than with logits that were rounded; a sum of few may round to either side.
        allowed = 2e-6 if dtype == torch.float32 else 1.2 * off(theirs, exact) + 1e-3
        assert off(ours, exact) < allowed, name


@pytest.mark.parametrize("dtype", DTYPES_HERE)
def test_large_logits_neither_overflow_nor_lose_the_loss(dtype: torch.dtype) -> None:
    x, gain = torch.ones(4, 16, dtype=dtype), torch.full((16,), 30.0)
    weight = torch.stack((torch.full((16,), 10.0), torch.full((16,), -10.0)))
    got = fused_cross_entropy(dtype)(x, gain, 0.0, weight, torch.tensor([0, 0, 1, 1]), 0.0)
    assert got.loss.item() == pytest.approx(2 * 2 * 4800, rel=1e-3)
    assert all(value.isfinite().all() for value in got)


@pytest.mark.parametrize("of_table", [False, True])
@pytest.mark.parametrize("dtype", DTYPES_HERE)
def test_what_is_not_finite_stays_so(dtype: torch.dtype, of_table: bool) -> None:
    x, weight, targets = (
        torch.randn(40, 32).to(dtype),
        torch.randn(64, 32),
        torch.zeros(40, dtype=torch.int64),
    )
    (weight if of_table else x)[5, 3] = float("nan")
    got = fused_cross_entropy(dtype)(x, torch.ones(32), 1e-5, weight, targets, 0.0)
    assert got.loss.isnan() and got.x_pull_ND[5].isnan().any() and got.weight_pull_VD.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES_HERE)
@pytest.mark.parametrize(("length", "width", "vocabulary"), [(1, 16, 33), (33, 48, 300), (65, 64, 1024)])
def test_scores(length: int, width: int, vocabulary: int, dtype: torch.dtype) -> None:
    model = Transformer(ModelConfig.from_shape(1, width, vocabulary, 65))
    model.initialize(0)
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(3, length, width, generator=generator).to(dtype)
    targets = torch.randint(0, vocabulary, (3, length), generator=generator)
    targets[0] = model.head.logits(x.float(), model.embedding)[0].argmax(-1)
    right, _ = score_head(model.head, x.double(), model.embedding.double(), targets)
    nats, correct = fused_scores(dtype)(model.head, x, model.embedding, targets)
    torch.testing.assert_close(nats, right.float(), rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 2e-2)
    assert correct[0].float().mean() > 0.9 and not correct[1:].all()


def test_the_first_of_equal_logits_is_the_argmax() -> None:
    model = Transformer(ModelConfig.from_shape(1, 32, 40, 8))
    embedding = torch.ones(40, 32)
    embedding[:2] = 0
    targets = torch.tensor([[0, 2, 3]])
    for score in (score_head, fused_scores(torch.float32)):
        assert score(model.head, torch.ones(1, 3, 32), embedding, targets)[1].tolist() == [[False, True, False]]


@pytest.mark.parametrize("where", ["stream", "table"])
def test_a_score_that_is_not_finite_stays_so(where: str) -> None:
    model = Transformer(ModelConfig.from_shape(1, 32, 40, 8))
    x, embedding = torch.ones(1, 3, 32), torch.ones(40, 32)
    (x[0] if where == "stream" else embedding)[1, 4] = float("nan")
    nats, _ = fused_scores(torch.float32)(model.head, x, embedding, torch.zeros(1, 3, dtype=torch.int64))
    assert nats[0, 1].isnan() and nats.isnan().all() == (where == "table")


@pytest.mark.parametrize("vocabulary", [300, 512])
def test_a_model_learns_the_same(vocabulary: int) -> None:
    config = ModelConfig.from_shape(2, 64, vocabulary, 48)
    tokens = torch.randint(0, vocabulary, (3, 49), generator=torch.Generator().manual_seed(0))
    gradients, losses = [], []
    for fused in (False, True):
        model = Transformer(config)
        model.initialize(0)
        assert not fused or fuse_model(model, torch.float32, print)
        objective, loss = model(tokens[:, :-1], tokens[:, 1:], torch.float32, Z_LOSS)
        objective.backward()
        losses.append((objective.detach(), loss))
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_another_dtype_is_left_to_the_plain_ones() -> None:
    x = torch.randn(5, 32, dtype=torch.float64)
    inputs = (x, torch.ones(32).double(), 1e-5, torch.randn(40, 32).double(), torch.arange(5), 0.0)
    fused, plain = fused_cross_entropy(torch.float32)(*inputs), plain_cross_entropy(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(fused, plain, strict=True))
