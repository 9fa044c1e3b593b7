"""Held-out sums of each document, one small file a run, and the paired comparison of two runs on the same documents."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .evaluate import HeldOutLoss, ratio_standard_error
from .files import atomic_file

DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class DocumentLossError(ValueError):
    """Losses of documents that are missing, damaged or not comparable; its message is one line."""

    exit_code = 2


class PairedDifference(NamedTuple):
    """First run's loss minus the second's, in nats per token, and its standard error over documents."""

    mean: float
    se: float


def save_document_losses(folder: Path, key: str, loss: HeldOutLoss) -> Path:
    """Writes the run's sums to FOLDER/KEY.npz, compressed, in one step: a file that exists is whole."""
    path = folder / f"{key}.npz"
    with atomic_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **{name: _narrow(values) for name, values in vars(loss).items()})
    return path


def _narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest type that holds them; losses stay float64, exact."""
    return values.astype(np.min_scalar_type(values.max(initial=0))) if values.dtype.kind in "iu" else values


def load_document_losses(folder: Path, key: str) -> HeldOutLoss:
    """What `save_document_losses` wrote, equal to the bit.

    Raises:
        DocumentLossError: there is no such file, or it is damaged.
    """
    path = folder / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {field.name: file[field.name] for field in dataclasses.fields(HeldOutLoss)}
    except FileNotFoundError:
        raise DocumentLossError(f"{path}: no document losses of this run") from None
    except DAMAGE as error:
        raise DocumentLossError(f"{path}: cannot be read ({type(error).__name__}); train the run again") from None
    return HeldOutLoss(**{n: a.astype(np.int64) if a.dtype.kind in "iu" else a for n, a in arrays.items()})


def paired_difference(a: HeldOutLoss, b: HeldOutLoss) -> PairedDifference:
    """Loss of `a` minus loss of `b` on the documents that both were evaluated on, with its standard error.

    The difference is taken document by document, so that what makes a document hard for both cancels: the ratio
    estimator (Cochran 1977, Sampling Techniques, 6.4) of summed differences over tokens.

    Raises:
        DocumentLossError: the two are not of the same documents in the same tokens.
    """
    if not np.array_equal(a.tokens, b.tokens):
        raise DocumentLossError("paired difference: the two runs were not evaluated on the same documents and tokens")
    differences = a.nats - b.nats
    error = ratio_standard_error(differences, a.tokens)
    return PairedDifference(float(differences.sum() / a.tokens.sum()), error)
