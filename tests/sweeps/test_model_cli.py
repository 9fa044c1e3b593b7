"""`sixnd train`, `sample`, `export` and `models ladder` as a person uses them, on a corpus of files; bad input in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from sixnd.models.config import ModelConfig
from sixnd.models.flops import training_flops
from sixnd.models.ladder import shape_for
from sixnd.sweeps.cli import main
from sixnd.train.device import native_precision, pick_device
from sixnd.train.machine import worker_environment

from tests.conftest import make_documents
from tests.sweeps.test_cli import sixnd

CORPUS = """
name = "own"
vocab_size = 300
test_fraction = 0.1
[clean]
quality = []
[[sources]]
kind = "files"
name = "mine"
paths = ["text.jsonl"]
licence = "CC0-1.0"
"""
TRAIN = ["train", "--shape", "1,32", "--tokens", "12k", "--corpus", "own.toml", "context=32", "batch_tokens=512"]


class Said(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and one trained run."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": d.text}) for d in make_documents(120)))
    (folder / "own.toml").write_text(CORPUS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        done = sixnd(*TRAIN, cwd=folder)
    (folder / "said.txt").write_text(done.stdout)
    assert "tok/s" in done.stderr and "loss=" in done.stderr, "a bar shows the progress"
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command in this process, in `home`: (stdout, stderr). Starting one that imports torch takes seconds."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    for name, value in worker_environment().items():  # or `train` would start this process anew
        monkeypatch.setenv(name, value)

    def command(*arguments: str, code: int = 0) -> Said:
        monkeypatch.setattr(sys, "argv", ["sixnd", *arguments])
        ended = 0
        try:
            main()
        except SystemExit as end:
            ended = int(end.code or 0)
        said = Said(*capsys.readouterr())
        assert ended == code, said
        return said

    return command


@pytest.fixture
def run(home: Path) -> Path:
    (found,) = (home / "runs").iterdir()
    return found


def test_train_leaves_a_run_and_says_what_it_reached(home: Path, run: Path) -> None:
    record, said = json.loads((run / "run.json").read_text()), (home / "said.txt").read_text()
    shape = ModelConfig.from_shape(1, 32, 300, 32)
    assert run.name == "11.9k-11.8k-seed0"
    assert record["state"] == "done" and record["N_total"] == shape.n_total and record["D"] == 23 * 512
    for word in (
        f"{record['test_loss']:.4f}",
        "bits per byte",
        "tokens/s: MFU",
        f"{native_precision(pick_device())} peak measured",
        f"runs/{run.name}",
    ):
        assert word in said
    assert sorted(path.name for path in run.iterdir()) == ["corpus.json", "run.json", "tokenizer.json", "weights.pt"]
    peaks = json.loads((home / "cache" / "sixnd" / "gemm_peak.json").read_text())
    assert len(peaks) == 1 and next(iter(peaks.values())) > 1e8


def test_the_settings_are_a_sweeps_own(home: Path, run: Path) -> None:
    """The run of `sixnd train` is the cell of a sweep: the same spec, and so the same key."""
    from sixnd.sweeps.planning.grid import impossible
    from sixnd.sweeps.planning.plan import make_plan
    from sixnd.sweeps.precision import in_precision
    from sixnd.sweeps.spec import load_sweep
    from sixnd.train.corpus.find import find_corpus

    (home / "sweep.toml").write_text(
        'name = "cell"\ncorpus = "own.toml"\ntokens = ["12k"]\nshapes = [[1, 32]]\n[train]\ncontext = 32\nbatch_tokens = 512\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        sweep = in_precision(load_sweep("sweep.toml"), native_precision(pick_device()))
        (spec,) = make_plan(sweep, find_corpus("own", home / "corpora"), impossible).runs
    assert json.loads((run / "run.json").read_text())["key"] == spec.key


def test_the_same_command_trains_nothing_and_another_one_is_refused(
    home: Path, run: Path, here: Callable[..., Said]
) -> None:
    before = (run / "weights.pt").read_bytes()
    again = here(*TRAIN)
    assert "trained already" in again.stdout and f"runs/{run.name}" in again.stdout
    refused = here(*TRAIN, "--lr", "3e-3", code=2)
    assert "holds another run" in refused.stderr and refused.stderr.count("\n") == 1
    (home / "mine").mkdir()
    (home / "mine" / "thesis.tex").touch()
    assert "thesis.tex" in here(*TRAIN, "--out", "mine", code=2).stderr
    assert (run / "weights.pt").read_bytes() == before


def test_a_diverged_run_ends_with_one_line(home: Path, here: Callable[..., Said]) -> None:
    failed = here(*TRAIN, "--lr", "0.9", "clip_norm=1e30", "z_loss=0", "beta2=0", "--out", "hot", code=1)
    assert "diverged" in failed.stderr
    assert json.loads((home / "hot" / "run.json").read_text())["state"] == "diverged"
    assert "diverged" in here("sample", "hot", code=2).stderr


def test_sample_is_repeatable_and_starts_with_the_prompt(home: Path, run: Path, here: Callable[..., Said]) -> None:
    first, same = (here("sample", str(run), "--prompt", "abc", "--tokens", "40").stdout for _ in range(2))
    assert first == same and first.startswith("abc") and len(first) > 10
    greedy = here("sample", str(run), "--prompt", "abc", "--temperature", "0", "--seed", "1").stdout
    assert greedy.startswith("abc") and greedy != first


def test_export_writes_a_folder_once(home: Path, run: Path, here: Callable[..., Said]) -> None:
    pytest.importorskip("safetensors", reason="the extra sixnd[hf] is not installed")
    assert "model.safetensors" in here("export", str(run), "--to", "hf").stdout
    assert f"# {run.name}" in (home / "hf" / "README.md").read_text()
    assert "exists" in here("export", str(run), "--to", "hf", code=2).stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["train", "--tokens", "20k"], "give either --params"),
        (["train", "--tokens", "20k", "--params", "25k", "--shape", "1,32"], "give either --params"),
        (["train", "--tokens", "20x", "--params", "25k"], "--tokens: '20x' is not a count"),
        (["train", "--tokens", "20k", "--params", "lots"], "--params: 'lots' is not a count"),
        (["train", "--tokens", "20k", "--params", "10"], "outside the ladder"),
        (["train", "--tokens", "20k", "--shape", "1x32"], "depth,width"),
        (["train", "--tokens", "20k", "--shape", "1,32", "speed=3"], "unknown key; allowed are context"),
        (["train", "--tokens", "20k", "--shape", "1,32", "--lr", "fast"], "lr = 'fast'"),
        (["train", "--tokens", "20k", "--shape", "1,32", "--corpus", "none.toml"], "none.toml: no such file"),
        (["train", "--tokens", "20G", "--shape", "1,32"], "not a count"),
        (["train", "--tokens", "1B", "--shape", "1,32"], "beyond one epoch"),
        (["sample", "corpora"], "no trained run here"),
        (["sample", "corpora", "--temperature", "-1"], "temperature = -1.0: 0 (the likeliest token) or above"),
        (["export", "corpora", "--to", "x"], "no trained run here"),
        (["models", "ladder", "--from", "1k"], "the ladder goes up from 20k to 10B"),
        (["models", "ladder", "--vocab", "0"], "--vocab 0"),
    ],
)
def test_wrong_input_is_one_line(here: Callable[..., Said], command: list[str], says: str) -> None:
    own = ["--corpus", "own.toml"] if command[0] == "train" and "--corpus" not in command else []
    stderr = here(*command, *own, code=2).stderr
    assert says in stderr and stderr.count("\n") == 1, stderr


def test_the_ladder_is_closed_form(home: Path, here: Callable[..., Said]) -> None:
    lines = here("models", "ladder", "--vocab", "4096", "--from", "1M", "--to", "5M").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["1M", "2M", "5M"]
    shape = ModelConfig.from_shape(*shape_for(2_000_000), 4096)
    for fact in (f"{shape.n_total:,}", f"{shape.n_non_embedding:,}", f"{shape.n_matmul:,}", f"{6 * shape.n_total:.4e}"):
        assert fact in lines[2]
    assert f"{training_flops(shape).total:.4e}" in lines[2]


def test_help_starts_without_torch() -> None:
    code = "import sys, sixnd.sweeps.commands.model; assert not {'torch', 'pydantic', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
