"""A fused block: equal to the plain one in fp64, forward and backward, whatever the sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.stack import StackedTransformer
from sixnd.models.transformer import Block, Positions, Transformer, run_block, score_head
from sixnd.train.device import compile_model, native_precision
from sixnd.train.loop import DTYPES
from sixnd.train.machine import fuses
from sixnd.train.native.block import attention_library, fused_block
from sixnd.train.native.fuse import fuse_model
from sixnd.train.native.library import NotCompiled, library
from torch import Tensor

NATIVE = DTYPES[native_precision(torch.device("cpu"))]  # bf16 where the processor multiplies it
DTYPES_HERE = [torch.float32] if torch.float32 == NATIVE else [torch.float32, NATIVE]
SMALL = ModelConfig.from_shape(1, 32, 300, 48)

pytestmark = pytest.mark.skipif(not fuses(SMALL), reason="no C++ compiler on this machine, or none that fuses")


def model_of(
    width: int, head_dim: int, d_ff: int, length: int, qk_norm: bool = False, n_layers: int = 1
) -> Transformer:
    """Whose layers write as much as comes in, and whose gains are not one."""
    config = ModelConfig(
        n_layers=n_layers,
        d_model=width,
        head_dim=head_dim,
        d_ff=d_ff,
        vocab_size=300,
        context=max(8, length),
        qk_norm=qk_norm,
    )
    model = Transformer(config)
    model.initialize(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
            elif name.endswith(("output.weight", "down.weight")):
                parameter.mul_(10)
    return model


def positions(model: Transformer, length: int, dtype: torch.dtype) -> Positions:
    return Positions(model.cos_TK[:length], model.sin_TK[:length], model.mask_TS[:length, :length].to(dtype))


def stream(width: int, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x and dy, (3, T, D)."""
    generator = torch.Generator().manual_seed(length)
    x, dy = (torch.randn(3, length, width, generator=generator) for _ in range(2))
    return x.to(dtype), dy.to(dtype)


def with_gradients(run: object, model: Transformer, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    assert callable(run)
    block, x = model.blocks[0], x.detach().requires_grad_()
    assert isinstance(block, Block)
    model.zero_grad()
    y = run(block, x, positions(model, x.shape[1], x.dtype))
    y.backward(dy)
    assert x.grad is not None
    return {"y": y.detach(), "dx": x.grad} | {
        n: p.grad.clone() for n, p in block.named_parameters() if p.grad is not None
    }


def off(x: Tensor, right: Tensor) -> float:
    return float((x.double() - right).norm() / right.norm().clamp_min(1e-9))


@pytest.mark.parametrize("dtype", DTYPES_HERE)
@pytest.mark.parametrize(
    ("width", "head_dim", "d_ff", "length", "qk_norm"),
    [
        (32, 32, 80, 256, False),
        (64, 16, 176, 100, True),
        (48, 48, 16, 33, True),
        (128, 64, 336, 2, False),
        (80, 16, 208, 65, False),
        (256, 128, 688, 130, True),
    ],
)
def test_output_and_gradients(
    width: int, head_dim: int, d_ff: int, length: int, qk_norm: bool, dtype: torch.dtype
) -> None:
    model, (x, dy) = model_of(width, head_dim, d_ff, length, qk_norm), stream(width, length, dtype)
    fused, plain = (with_gradients(run, model, x, dy) for run in (fused_block(dtype), run_block))
    right = with_gradients(run_block, model.double(), x.double(), dy.double())
    assert fused.keys() == plain.keys() == right.keys() and len(right) == (10 if qk_norm else 8)
    for name, exact in right.items():
        assert fused[name].dtype == plain[name].dtype and fused[name].shape == plain[name].shape, name
        # In bf16 no worse than where every step's output is rounded.
        allowed = 3e-6 if dtype == torch.float32 else 1.1 * off(plain[name], exact) + 1e-3
        assert off(fused[name], exact) < allowed, name


@pytest.mark.parametrize("dtype", DTYPES_HERE)
def test_nothing_comes_from_later_tokens(dtype: torch.dtype) -> None:
    """To the bit, however large what is masked."""
    model, (x, _), at = model_of(64, 32, 176, 100), stream(64, 100, dtype), 41
    changed = x.clone()
    changed[:, at:] = 1e4
    block, run = model.blocks[0], fused_block(dtype)
    assert isinstance(block, Block)
    before, after = (run(block, inputs, positions(model, 100, dtype)) for inputs in (x, changed))
    assert torch.equal(before[:, :at], after[:, :at])
    assert not torch.equal(before[:, at:], after[:, at:])


@pytest.mark.parametrize("dtype", DTYPES_HERE)
def test_large_scores_and_gates_neither_overflow_nor_lose_the_largest(dtype: torch.dtype) -> None:
    model, (x, dy) = model_of(32, 32, 80, 64), stream(32, 64, dtype)
    with torch.no_grad():
        for name in ("attention.qkv", "mlp.gate_up"):
            model.blocks[0].get_parameter(f"{name}.weight").mul_(100)
    fused = with_gradients(fused_block(dtype), model, x, dy)
    right = with_gradients(run_block, model.double(), x.double(), dy.double())
    assert all(value.isfinite().all() for value in fused.values())
    assert off(fused["y"], right["y"]) < (1e-4 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("dtype", DTYPES_HERE)
@pytest.mark.parametrize("where", ["x", "attention.qkv.weight", "mlp.down.weight", "attention_norm.gain"])
def test_what_is_not_finite_stays_so(where: str, dtype: torch.dtype) -> None:
    """A run that has diverged must see it."""
    model, (x, dy) = model_of(32, 32, 80, 40), stream(32, 40, dtype)
    if where == "x":
        x[0, 7, 3] = float("nan")
    else:
        with torch.no_grad():
            model.blocks[0].get_parameter(where).view(-1)[5] = float("nan")
    got = with_gradients(fused_block(dtype), model, x, dy)
    assert not got["y"][0, 7].isfinite().all() and not got["dx"][0].isfinite().all()
    if where == "x":
        assert got["y"][1:].isfinite().all()  # other sequences


def test_layout_does_not_matter() -> None:
    model, (x, dy) = model_of(48, 16, 80, 70), stream(48, 70, torch.float32)
    turned = [value.transpose(1, 2).contiguous().transpose(1, 2) for value in (x, dy)]
    first, second = (with_gradients(fused_block(torch.float32), model, *inputs) for inputs in ((x, dy), turned))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_model_learns_and_scores_the_same(qk_norm: bool) -> None:
    tokens = torch.randint(0, 300, (3, 49), generator=torch.Generator().manual_seed(0))
    gradients, scores = [], []
    for fused in (False, True):
        model = model_of(64, 32, 176, 48, qk_norm, n_layers=2)
        assert not fused or fuse_model(model, torch.float32, print)
        model(tokens[:, :-1], tokens[:, 1:], torch.float32)[0].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        hidden = model.hidden(tokens[:, :-1], torch.float32)
        scores.append(model.head.score(model.head, hidden, model.embedding, tokens[:, 1:])[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=1e-5)


def test_another_dtype_is_left_to_the_plain_block() -> None:
    model, (x, dy) = model_of(32, 32, 80, 20).double(), stream(32, 20, torch.float64)
    fused, plain = (with_gradients(run, model, x, dy) for run in (fused_block(torch.float32), run_block))
    assert all(torch.equal(fused[name], plain[name]) for name in plain)


@pytest.mark.parametrize(("head_dim", "d_ff"), [(24, 64), (16, 40)])
def test_what_no_vector_fits_is_left_to_torch(head_dim: int, d_ff: int) -> None:
    model = model_of(48, head_dim, d_ff, 32)
    assert not fuse_model(model, torch.float32, print)
    assert model.blocks[0].run is run_block and model.head.score is score_head


def test_stacks_and_fp64_are_left_as_they_are() -> None:
    stack, whole = StackedTransformer(SMALL, 2), Transformer(SMALL)
    assert not fuse_model(stack, torch.float32, print) and stack.blocks[0].run is run_block
    assert not fuse_model(whole, torch.float64, print) and whole.blocks[0].run is run_block


def test_nothing_of_a_fused_model_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model = Transformer(SMALL)
    assert compile_model(model, torch.float32, print)
    tokens = torch.zeros(2, 49, dtype=torch.int64)
    model(tokens[:, :-1], tokens[:, 1:], torch.float32)[0].backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_other_machines_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not fuses(SMALL) and not fuse_model(Transformer(SMALL), torch.float32, print)


def test_a_compiler_that_fails_is_told_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    try:
        said: list[str] = []
        model = Transformer(SMALL)
        assert not fuse_model(model, torch.float32, said.append)
        assert said == ["sixnd's own C++ does not compile here, training is slower: x.cpp:1: error: no such thing"]
        assert model.blocks[0].run is run_block
        assert not list((tmp_path / "cache").rglob("*.so"))
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(NotCompiled, match="no C\\+\\+ compiler"):
            attention_library(torch.float32, 32)
    finally:
        library.cache_clear()


def test_compiled_once_and_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.cache_clear()
    try:
        library("mlp.cpp", torch.float32)
        (kept,) = tmp_path.rglob("*.so")
        made = kept.stat().st_mtime_ns
        library.cache_clear()
        library("mlp.cpp", torch.float32)
        assert kept.stat().st_mtime_ns == made
        assert [path.name for path in kept.parent.iterdir()] == [kept.name]
        monkeypatch.setenv("XDG_CACHE_HOME", str(kept / "a file, not a folder"))
        library.cache_clear()
        assert library("mlp.cpp", torch.float32).forward
    finally:
        library.cache_clear()
