"""The measured peak: what it counts, that it is measured once, and that a broken cache costs a second and no more."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import sixnd.train.peak as peak
import torch
from sixnd.models.config import ModelConfig
from sixnd.models.flops import training_flops

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and products too small to take long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peak, "CPU_SHAPES", ((64, 32, 48), (128, 128, 128)))
    monkeypatch.setattr(peak, "PROBE_S", 0.02)
    return tmp_path / "sixnd" / "gemm_peak.json"


def test_the_rate_is_two_flops_a_multiply_add(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(0.0, 0.25)
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(peak, "PROBE_S", 4.0)
    assert peak.measure_peak(CPU, torch.float32) == 2 * 128**3 / 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_measured_once(cache: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    first = peak.gemm_peak(CPU, dtype)
    assert 1e7 < first < 1e15 and torch.get_num_threads() == threads
    (key,) = json.loads(cache.read_text())
    assert str(dtype).removeprefix("torch.") in key and torch.__version__ in key and key.endswith("1 threads")
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    monkeypatch.setattr(peak, "measure_peak", lambda *_: 1.0)
    assert peak.gemm_peak(CPU, dtype) == first
    assert peak.gemm_peak(CPU, torch.float64) == 1.0, "another dtype is measured of its own"
    assert peak.gemm_peak(CPU, dtype, threads=2) == 1.0, "and another number of threads"
    assert len(json.loads(cache.read_text())) == 3


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": "fast"}', '{"a": null}'])
def test_a_broken_cache_is_measured_again(cache: Path, content: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert peak.gemm_peak(CPU, torch.float32) > 0
    assert len(json.loads(cache.read_text())) == 1


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert peak.gemm_peak(CPU, torch.float32) > 0


def test_mfu_is_exact_flops_over_the_peak() -> None:
    config = ModelConfig.from_shape(2, 32, 300)
    assert peak.mfu(1000, config, 2000 * training_flops(config).total) == pytest.approx(0.5)
