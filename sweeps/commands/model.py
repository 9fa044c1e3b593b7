"""One model for a person: `sixnd train`, `sixnd sample`, `sixnd export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .corpus import Corpora, console

if TYPE_CHECKING:  # torch and pydantic take a second to import; `sixnd --help` takes none
    from ...train.corpus.store import Corpus
    from ...train.record import RunRecord
    from ...train.spec import RunSpec
    from ..spec import SweepSpec

CHECKPOINTS = "checkpoints"


def train(
    *overrides: str,
    tokens: str,
    params: str | None = None,
    shape: str | None = None,
    corpus: str = "demo",
    lr: str = "auto",
    seed: int = 0,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
    corpora: Corpora = None,
) -> None:
    """Train one model, as a sweep would, and keep its weights.

    Stopped, the same command goes on from its last checkpoint. Example: `sixnd train --params 442k --tokens 4M`

    Parameters
    ----------
    overrides
        key=value of a sweep's table [train], such as batch_tokens=4096 or context=128.
    tokens
        D: training tokens, each seen once.
    params
        N without the embedding; the ladder's nearest shape is taken (`sixnd models ladder`).
    shape
        Or the shape itself: depth,width, such as 4,96.
    corpus
        A preset's name or a TOML file; built where it is not there.
    lr
        Peak learning rate; auto follows N.
    seed
        Decides the initial weights and the order of the data.
    out
        Folder of the run; runs/NAME by default.
    """
    from ...train.corpus.build import build_corpus, corpora_root
    from ...train.device import device_name, native_precision, pick_device
    from ...train.trained import RECORD, read_record
    from ..planning.grid import impossible
    from ..planning.plan import make_plan
    from ..precision import emulated, in_precision

    sweep = single_run(overrides, tokens, params, shape, corpus, lr, seed)
    _become_a_worker()
    device = pick_device()
    native = native_precision(device)
    sweep = in_precision(sweep, native)
    root = corpora_root(corpora)
    built = build_corpus(sweep.corpus, root, _say)
    (spec,) = make_plan(sweep, built, impossible).runs
    if warning := emulated(spec.precision, native, device_name(device)):
        _say(warning)
    folder = out or Path("runs") / run_name(spec)
    _refuse_other_contents(folder, spec)
    console.print(_what(spec), markup=False)
    if (folder / RECORD).is_file():
        console.print("trained already:")
        record = read_record(folder)
    else:
        record = _train(spec, built, root, folder)
    _conclude(record, spec, folder)


def sample(
    run: Path, *, prompt: str = "", tokens: int = 100, temperature: float = 0.8, top_k: int = 50, seed: int = 0
) -> None:
    """Print what a trained model says after a prompt, until it ends the document.

    Example: `sixnd sample runs/443k-4M-seed0 --prompt "The President"`

    Parameters
    ----------
    run
        A folder that `sixnd train` wrote.
    prompt
        The beginning of a document.
    tokens
        How many at most.
    temperature
        Divides the logits; 0 takes the likeliest token each time.
    top_k
        Only so many of the likeliest tokens are drawn from.
    seed
        Of the draws: the same one gives the same text.
    """
    import torch

    from ...train.sample import Sampling, sample_text
    from ...train.trained import load_trained

    torch.set_num_threads(
        1
    )  # products of one token at a time: two threads wait for each other, 20x longer on a busy machine
    sampling = Sampling(tokens, temperature, top_k, seed)
    print(prompt + sample_text(load_trained(run), prompt, sampling))


def export(run: Path, *, to: Path) -> None:
    """Write a trained model as a Hugging Face folder that transformers loads offline. Needs the extra `sixnd[hf]`.

    Example: `sixnd export runs/443k-4M-seed0 --to my-model`

    Parameters
    ----------
    run
        A folder that `sixnd train` wrote.
    to
        The folder to write; it must not exist.
    """
    from ...train.export import export as write
    from ...train.trained import load_trained

    write(load_trained(run), to)
    size = sum(file.stat().st_size for file in to.iterdir())
    console.print(f"{to}: {', '.join(sorted(file.name for file in to.iterdir()))} ({size / 1e6:.1f} MB)", markup=False)


def single_run(
    overrides: tuple[str, ...], tokens: str, params: str | None, shape: str | None, corpus: str, lr: str, seed: int
) -> SweepSpec:
    """The sweep of one cell that the options of `sixnd train` mean.

    Raises:
        SpecError: one line for each thing that is wrong.
    """
    from ...train.corpus.spec import TABLES
    from ..spec import SpecError, SweepSpec, TrainSettings, count_option, load_corpus
    from ..toml import merge, validate

    if (params is None) == (shape is None):
        raise SpecError("train: give either --params, such as 442k, or --shape depth,width, such as 4,96")
    document: dict[str, object] = {
        "name": "train",
        "tokens": [count_option("--tokens", tokens)],
        "seeds": [seed],
        "train": {},
    }
    if shape is None:
        document["params"] = [count_option("--params", params)]
    else:
        sides = shape.split(",")
        if len(sides) != 2 or not all(side.strip().isdecimal() for side in sides):
            raise SpecError(f"--shape {shape!r}: depth,width, such as 4,96")
        document["shapes"] = [[int(side) for side in sides]]
    for override in (f"lr={lr}", *overrides):
        merge(document, f"train.{override.removeprefix('train.')}")
    document["corpus"] = load_corpus(corpus)
    return validate(SweepSpec, document, "train", {**TABLES, "train": TrainSettings})


def run_name(spec: RunSpec) -> str:
    """443k-4M-seed0: non-embedding N, D and seed."""
    from ..show import short

    return f"{short(spec.model.n_non_embedding)}-{short(spec.tokens)}-seed{spec.seed}"


def _train(spec: RunSpec, corpus: Corpus, root: Path, folder: Path) -> RunRecord:
    """Trains the run in `folder`, where its checkpoints lie until it is finished."""
    import shutil

    from ...train.loop import Stopped
    from ...train.loop import train as train_run
    from ...train.trained import WEIGHTS, write_run
    from ..stopping import Interrupted, stop_requests

    folder.mkdir(parents=True, exist_ok=True)
    checkpoints, weights = folder / CHECKPOINTS, folder / WEIGHTS
    try:
        with stop_requests() as request:
            record = train_run(spec, corpora=root, checkpoints=checkpoints, weights=weights, say=_say, stop=request)
    except Stopped as end:
        raise Interrupted(f"{end}; the same command goes on from its checkpoint") from None
    write_run(folder, record, corpus)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return record


def _conclude(record: RunRecord, spec: RunSpec, folder: Path) -> None:
    """Loss, bits per byte, speed, MFU, and where the run lies."""
    from ...train.device import pick_device
    from ...train.loop import DTYPES
    from ...train.peak import gemm_peak, mfu
    from ...train.trained import loss_in_words
    from ..conclusion import Failed
    from ..show import where_is

    if record.state != "done":
        raise Failed(
            f"{where_is(folder)}: the run {record.state}: {record.error}; a lower --lr in another --out may do"
        )
    console.print(f"test loss {loss_in_words(record)}")
    if record.tokens_per_s is None:
        console.print("too few steps to time")
    else:
        peak = gemm_peak(pick_device(), DTYPES[spec.precision])
        console.print(
            f"{record.tokens_per_s:,.0f} tokens/s: MFU {mfu(record.tokens_per_s, spec.model, peak):.1%} of"
            f" {peak / 1e9:,.0f} GFLOP/s, the {spec.precision} peak measured on this device"
        )
    console.print(f"run: {where_is(folder)}", markup=False)


def _refuse_other_contents(folder: Path, spec: RunSpec) -> None:
    """Raises SpecError where `folder` holds another run, or anything that no run wrote."""
    from ...train.corpus.manifest import TOKENIZER
    from ...train.trained import RECEIPT, RECORD, WEIGHTS, read_record
    from ..spec import SpecError

    if (folder / RECORD).is_file() and (held := read_record(folder)).key != spec.key:
        raise SpecError(
            f"{folder}: holds another run (N {held.N_total:,}, D {held.D:,}, lr {held.lr:g}, seed {held.seed}, key {held.key});"
            " give another --out"
        )
    ours = {RECORD, WEIGHTS, RECEIPT, TOKENIZER, CHECKPOINTS}
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    strange = [name for name in names if name not in ours and not name.endswith(".tmp")]
    if strange:
        raise SpecError(f"{folder}: holds {strange[0]}, which is of no run; give another --out")


def _what(spec: RunSpec) -> str:
    shape = spec.model
    return (
        f"N {shape.n_total:,} ({shape.n_non_embedding:,} without the embedding): {shape.n_layers} layers of width"
        f" {shape.d_model}, {shape.n_heads} heads of {shape.head_dim}; D {spec.tokens:,} in {spec.n_steps:,} steps; lr {spec.optimizer.lr:.3g}"
    )


def _become_a_worker() -> None:
    """Starts this process anew with a sweep worker's environment, which counts only where it is there from the start."""
    from ...train.machine import worker_environment

    wanted = worker_environment()
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted)


def _say(line: str) -> None:
    console.print(line, markup=False)
