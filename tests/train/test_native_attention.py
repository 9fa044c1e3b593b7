"""Fused attention: equal to attention in fp64, forward and backward, whatever the length, layout and head dimension."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.transformer import Transformer, blocked_attention, causal_attention
from sixnd.train.device import native_precision
from sixnd.train.loop import DTYPES
from sixnd.train.machine import has_compiler
from sixnd.train.native.attention import attention_library, fused_attention
from sixnd.train.native.fuse import fuse_model
from sixnd.train.native.library import NotCompiled, library
from torch import Tensor

NATIVE = DTYPES[native_precision(torch.device("cpu"))]  # bf16 where the processor multiplies it
DTYPES_HERE = [torch.float32] if torch.float32 == NATIVE else [torch.float32, NATIVE]

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler on this machine")


def inputs(length: int, head_dim: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and dy (2, 3, T, K), slices of one tensor as in a model."""
    generator = torch.Generator().manual_seed(length)
    whole = torch.randn(2, length, 4, 3, head_dim, generator=generator).mul(1.5).to(dtype)
    return list(whole.permute(2, 0, 3, 1, 4).unbind(0))


def mask(length: int, dtype: torch.dtype) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1)


def exact(q: Tensor, k: Tensor, v: Tensor, dy: Tensor) -> list[Tensor]:
    """y, dq, dk, dv in fp64."""
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    y = causal_attention(q, k, v, mask(q.shape[2], q.dtype), q.shape[2])
    return [y.detach(), *torch.autograd.grad(y, (q, k, v), dy.double())]


def with_gradients(attend: object, q: Tensor, k: Tensor, v: Tensor, dy: Tensor) -> list[Tensor]:
    assert callable(attend)
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    y = attend(q, k, v, mask(q.shape[2], q.dtype))
    return [y.detach(), *torch.autograd.grad(y, (q, k, v), dy)]


def off(x: Tensor, right: Tensor) -> float:
    return float((x.double() - right).norm() / right.norm().clamp_min(1e-9))


@pytest.mark.parametrize("dtype", DTYPES_HERE)
@pytest.mark.parametrize(("length", "head_dim"), [(256, 32), (256, 16), (100, 64), (33, 48), (2, 32), (511, 128)])
def test_output_and_gradients(length: int, head_dim: int, dtype: torch.dtype) -> None:
    q, k, v, dy = inputs(length, head_dim, dtype)
    right = exact(q, k, v, dy)
    fused = [off(x, r) for x, r in zip(with_gradients(fused_attention(dtype), q, k, v, dy), right, strict=True)]
    plain = [off(x, r) for x, r in zip(with_gradients(blocked_attention, q, k, v, dy), right, strict=True)]
    # Sums over keys and queries are fp32 in both; in bf16 fused scores are never rounded.
    allowed = 1e-6 if dtype == torch.float32 else max(plain)
    assert max(fused) < allowed, (fused, plain)


@pytest.mark.parametrize("dtype", DTYPES_HERE)
def test_nothing_comes_from_later_tokens(dtype: torch.dtype) -> None:
    """To the bit, however large what is masked."""
    attend, at = fused_attention(dtype), 41
    q, k, v, _ = inputs(100, 32, dtype)
    changed = [x.clone() for x in (q, k, v)]
    for x in changed:
        x[:, :, at:] = 1e4
    before, after = (attend(*x, mask(100, dtype)) for x in ((q, k, v), changed))
    assert torch.equal(before[:, :, :at], after[:, :, :at])
    assert not torch.equal(before[:, :, at:], after[:, :, at:])


@pytest.mark.parametrize("dtype", DTYPES_HERE)
def test_large_scores_neither_overflow_nor_lose_the_largest(dtype: torch.dtype) -> None:
    q, k, v, dy = inputs(64, 32, dtype)
    results = with_gradients(fused_attention(dtype), 100 * q, 100 * k, v, dy)
    right = exact(100 * q, 100 * k, v, dy)
    assert all(x.isfinite().all() for x in results)
    assert off(results[0], right[0]) < (1e-4 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", DTYPES_HERE)
@pytest.mark.parametrize("which", range(3))
def test_what_is_not_finite_stays_so(which: int, dtype: torch.dtype) -> None:
    """A run that has diverged must see it."""
    q, k, v, dy = inputs(40, 32, dtype)
    (q, k, v)[which][0, 0, 7] = float("nan")
    y, dq, dk, dv = with_gradients(fused_attention(dtype), q, k, v, dy)
    assert y[1].isfinite().all() and y[0, 1].isfinite().all()  # another sequence, another head
    assert not all(x[0, 0].isfinite().all() for x in (y, dq, dk, dv))


def test_layout_does_not_matter() -> None:
    q, k, v, dy = inputs(70, 16, torch.float32)
    dense = [x.contiguous() for x in (q, k, v, dy)]
    turned = [
        x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, k, v, dy)
    ]  # head_dim is not the last in memory
    attend = fused_attention(torch.float32)
    first, second, third = (with_gradients(attend, *x) for x in ((q, k, v, dy), dense, turned))
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_model_learns_the_same(qk_norm: bool) -> None:
    config = ModelConfig.from_shape(2, 64, 300, 48).model_copy(update={"qk_norm": qk_norm})
    tokens = torch.randint(0, 300, (3, 49), generator=torch.Generator().manual_seed(0))
    gradients = []
    for fused in (False, True):
        model = Transformer(config)
        model.initialize(0)
        assert not fused or fuse_model(model, torch.float32, print)
        model(tokens[:, :-1], tokens[:, 1:], torch.float32)[0].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def test_another_dtype_is_left_to_plain_attention() -> None:
    q, k, v, dy = (x.double() for x in inputs(20, 16, torch.float32))
    for a, b in zip(with_gradients(fused_attention(torch.float32), q, k, v, dy), exact(q, k, v, dy), strict=True):
        torch.testing.assert_close(a, b)


def test_a_head_dim_that_no_vector_fits_is_left_alone() -> None:
    config = ModelConfig(n_layers=1, d_model=48, head_dim=24, d_ff=64, vocab_size=300, context=32)
    model = Transformer(config)
    assert fuse_model(model, torch.float32, print)
    assert model.blocks[0].attention.attend is blocked_attention


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
        model = Transformer(ModelConfig.from_shape(1, 32, 300, 32))
        assert not fuse_model(model, torch.float32, said.append)
        assert said == ["sixnd's own C++ does not compile here, training is slower: x.cpp:1: error: no such thing"]
        assert model.blocks[0].attention.attend is blocked_attention
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
        attention_library(torch.float32, 16)
        (kept,) = tmp_path.rglob("*.so")
        made = kept.stat().st_mtime_ns
        library.cache_clear()
        attention_library(torch.float32, 16)
        assert kept.stat().st_mtime_ns == made
        assert [path.name for path in kept.parent.iterdir()] == [kept.name]
        monkeypatch.setenv("XDG_CACHE_HOME", str(kept / "a file, not a folder"))
        library.cache_clear()
        assert attention_library(torch.float32, 16).forward
    finally:
        library.cache_clear()
