"""The folder of one trained model: run.json, weights.pt, tokenizer.json and corpus.json, enough to use it without its corpus."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ..models.transformer import Transformer
from .corpus.manifest import TOKENIZER, Manifest
from .corpus.store import Corpus
from .corpus.tokenizer import load_tokenizer
from .files import atomic_file
from .record import RunRecord
from .spec import RunSpec

RECORD, WEIGHTS, RECEIPT = "run.json", "weights.pt", "corpus.json"


class TrainedError(ValueError):
    """A run's folder that cannot be used; its message is one line."""

    exit_code = 2


@dataclass(frozen=True)
class Trained:
    """A trained model (fp32, on CPU) and what is known of it."""

    folder: Path
    record: RunRecord
    spec: RunSpec
    model: Transformer
    tokenizer: Tokenizer
    receipt: Manifest  # the corpus' manifest without its list of held-out documents


def loss_in_words(record: RunRecord) -> str:
    """The held-out loss of a finished run, with its standard error over documents where there is one."""
    error = "" if record.test_loss_se is None else f" ± {record.test_loss_se:.4f}"  # one document has none
    return f"{record.test_loss:.4f}{error} nats per token, {record.bits_per_byte:.4f} bits per byte"


def write_run(folder: Path, record: RunRecord, corpus: Corpus) -> None:
    """Writes all but the weights; run.json comes last and at once, so that a folder that has it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(corpus.path / TOKENIZER, folder / TOKENIZER)
    receipt = corpus.manifest.model_copy(update={"test_documents": (), "validation_documents": ()})
    (folder / RECEIPT).write_text(receipt.model_dump_json(indent=1) + "\n", encoding="utf-8")
    with atomic_file(folder / RECORD) as file:
        file.write(record.model_dump_json(indent=1).encode() + b"\n")


def read_record(folder: Path) -> RunRecord:
    """The record of the run in `folder`.

    Raises:
        TrainedError: there is none, or it is not one of this version.
    """
    file = folder / RECORD
    if not file.is_file():
        raise TrainedError(f"{folder}: no trained run here; give a folder that `sixnd train` wrote")
    try:
        return RunRecord.model_validate_json(file.read_bytes())
    except ValueError:
        raise TrainedError(f"{file}: not the record of a run") from None


def load_trained(folder: Path) -> Trained:
    """The model that `sixnd train` left in `folder`.

    Raises:
        TrainedError: the run is missing or diverged, or a file of it is missing or damaged.
    """
    record = read_record(folder)
    if record.state != "done":
        raise TrainedError(f"{folder}: the run {record.state}: {record.error}; it left no model to use")
    spec = RunSpec.model_validate_json(record.spec)
    for name in (WEIGHTS, TOKENIZER, RECEIPT):
        if not (folder / name).is_file():
            raise TrainedError(f"{folder / name}: missing; train the run again in another folder")
    model = Transformer(spec.model)
    try:
        model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    except (RuntimeError, EOFError, OSError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise TrainedError(
            f"{folder / WEIGHTS}: cannot be read as the run's weights ({type(error).__name__}); train it again in another folder"
        ) from None
    try:
        receipt = Manifest.model_validate_json((folder / RECEIPT).read_bytes())
    except ValueError:
        raise TrainedError(f"{folder / RECEIPT}: not the receipt of a corpus") from None
    return Trained(folder, record, spec, model, load_tokenizer(str(folder / TOKENIZER)), receipt)
