"""Datasets of the Hugging Face hub, or local folders in its layout, read through `datasets` at one commit.

Libraries are imported inside functions: `datasets` alone takes a second. No code of a dataset is ever run; `datasets`
has had no way to since version 4.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from ..spec import CorpusError, HubSource
from .document import Document, Source, bounded, digest_of_files, one_line, too_large

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, IterableDataset

T = TypeVar("T")
REVISIONS = "revisions.json"
HUB_SECONDS = 3.0  # for the hub to answer that it is there
BATCH_ROWS = 64  # read at once
_TITLE = re.compile(r" = [^=].* = ")


def read_hub(spec: HubSource, max_document_bytes: int, root: Path) -> Source:
    """A split of a dataset; without `spec.revision`, at the commit that `root / "revisions.json"` remembers.

    With a commit known, nothing is asked of the network until the documents are walked.

    Raises:
        CorpusError: the newest commit is not known and the hub does not tell it; a local folder with a revision;
            lines to regroup with a shuffle. While walking the documents: the hub cannot be reached, or has no such
            dataset, commit, configuration, split or column, or asks for a login; a document is above the limit.
    """
    if spec.regroup is not None and spec.shuffle_seed is not None:
        raise _error(spec, "regroup needs the lines in their order; leave out shuffle_seed")
    folder = _folder(spec)
    if folder is not None and spec.revision is not None:
        raise _error(spec, f"{folder} is a local folder, which has no revision; leave revision out")
    commit = _folder_digest(folder) if folder else spec.revision or _remembered_commit(spec, root)

    label = spec.label

    def documents() -> Iterator[Document]:
        texts = _texts(spec, _open(spec, commit))
        if spec.regroup == "wikitext":
            texts = join_articles(texts, label, max_document_bytes)
        for number, text in enumerate(texts, 1):
            yield bounded(Document(label, f"{spec.split}#{number}", text), max_document_bytes)

    return Source(
        name=label,
        version=f"folder {commit[:12]}" if folder else commit,
        licence=spec.licence,
        sha256=_identity(spec, commit, folder is not None),
        documents=documents,
    )


def join_articles(lines: Iterable[str], source: str, max_document_bytes: int) -> Iterator[str]:
    """WikiText's articles out of its lines: each starts at a heading of the first level, " = Title = ", after a blank line.

    Merity et al. 2016 (Pointer Sentinel Mixture Models, arXiv 1609.07843) made the data set of whole articles.
    """
    article, size, blank = list[str](), 0, True
    for line in lines:
        line = line.removesuffix("\n")
        if blank and _TITLE.fullmatch(line):
            if text := "\n".join(article).strip("\n"):
                yield text
            article, size = [], 0
        blank = not line.strip()
        article.append(line)
        size += len(line) + 1
        if size > max_document_bytes:
            place = f"the article that starts with {article[0][:60]!r}"
            raise too_large(source, place, f"more than {max_document_bytes} characters", max_document_bytes)
    if text := "\n".join(article).strip("\n"):
        yield text


# --- which commit ------------------------------------------------------------------------------------------------------


def _folder(spec: HubSource) -> Path | None:
    folder = Path(spec.path).expanduser()
    return folder if folder.is_dir() else None


def _folder_digest(folder: Path) -> str:
    names = ((path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if path.is_file())
    return digest_of_files(
        (n.as_posix(), path) for n, path in names if not any(part.startswith(".") for part in n.parts)
    )


def _identity(spec: HubSource, commit: str, is_folder: bool) -> str:
    """Everything that decides which documents come, and in which order."""
    shuffle = None
    if spec.shuffle_seed is not None:  # the order that a seed gives belongs to the version of the library
        shuffle = [spec.shuffle_seed, spec.shuffle_buffer if spec.streaming else None, version("datasets")]
    recipe = {
        "path": None if is_folder else spec.path,
        "commit": commit,
        "shuffle": shuffle,
        **spec.model_dump(include={"name", "split", "text_column", "streaming", "regroup"}),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _remembered_commit(spec: HubSource, root: Path) -> str:
    file = root / REVISIONS
    try:
        known = json.loads(file.read_text()) if file.is_file() else {}
        if not isinstance(known, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise CorpusError(f"{file}: {one_line(error)}; remove it, and the newest commits are asked for again") from None
    if spec.path not in known:
        known[spec.path] = _ask_hub(spec, None)
        root.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
        temporary.replace(file)
    return str(known[spec.path])


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _ask_hub(spec: HubSource, revision: str | None) -> str:
    """The full commit of a revision (None: the newest), from the hub itself, within `HUB_SECONDS`."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if _offline():
        raise _error(
            spec, "HF_HUB_OFFLINE is set and no commit is known; set revision, or build once with the hub in reach"
        )
    try:
        info = within(HUB_SECONDS, lambda: HfApi().dataset_info(spec.path, revision=revision, timeout=HUB_SECONDS))
    except RevisionNotFoundError:
        raise _error(
            spec, f"no commit {revision} in {spec.path}; correct revision, or leave it out for the newest"
        ) from None
    except RepositoryNotFoundError:
        raise _error(
            spec, f"no dataset {spec.path} on the hub; correct path, or log in with `hf auth login` if private"
        ) from None
    except HFValidationError:
        raise _error(spec, f"path {spec.path!r} is neither owner/dataset nor a local folder") from None
    except HfHubHTTPError as error:
        raise _error(spec, f"the hub answered: {one_line(error)}") from None
    except Exception as error:  # whatever the network's libraries raise
        raise _error(
            spec,
            f"{constants.ENDPOINT} cannot be reached ({one_line(error, 80)}); check the network or HF_ENDPOINT, "
            'set HF_HUB_OFFLINE=1 to use what is cached, or use a source of kind = "files" or "package"',
        ) from None
    if info.sha is None:
        raise _error(spec, f"the hub does not tell the commit of {spec.path}; set revision")
    return info.sha


def within(seconds: float, call: Callable[[], T]) -> T:
    """`call()`, TimeoutError where it takes longer: in a thread of its own: the look-up of a host name takes no time limit."""
    answers: Queue[tuple[T | None, Exception | None]] = Queue()

    def ask() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:
            answers.put((None, error))

    Thread(target=ask, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds} s") from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]


# --- its rows ----------------------------------------------------------------------------------------------------------


def _open(spec: HubSource, commit: str) -> Dataset | IterableDataset:
    """The split with its text column alone, shuffled as the spec says."""
    folder = _folder(spec)
    if folder is None and not _offline():
        _ask_hub(spec, commit)  # without a hub, `datasets` tries again for half a minute
    try:
        builder = _builder(spec, folder, commit)
        stream = _stream(spec, builder)
        columns = stream.column_names or list(next(iter(stream.take(1)), {}))
        if spec.text_column not in columns:
            raise _error(spec, f"no column {spec.text_column!r}; set text_column to one of: {', '.join(columns)}")
        if spec.streaming:
            rows = stream.select_columns([spec.text_column])
            shuffle = {"buffer_size": spec.shuffle_buffer}
        else:
            builder.download_and_prepare()
            rows, shuffle = builder.as_dataset(split=spec.split).select_columns([spec.text_column]), {}
        return rows if spec.shuffle_seed is None else rows.shuffle(seed=spec.shuffle_seed, **shuffle)
    except CorpusError:
        raise
    except Exception as error:  # whatever `datasets` and the libraries below it raise
        raise _explained(spec, error) from None


def _builder(spec: HubSource, folder: Path | None, commit: str) -> DatasetBuilder:
    import datasets

    place = {"path": str(folder)} if folder else {"path": spec.path, "revision": commit}
    try:
        builder = datasets.load_dataset_builder(name=spec.name, **place)
    except ValueError:
        names = datasets.get_dataset_config_names(**place)
        is_known = spec.name in names if spec.name else len(names) < 2
        if is_known or (_offline() and folder is None):
            raise
        asked = f"no configuration {spec.name!r}" if spec.name else "several configurations"
        raise _error(spec, f"{asked}; set name to one of: {', '.join(names)}") from None
    if builder.name == "cache":  # `datasets` found no hub and took the newest of what it has, whatever that is
        if builder.hash != commit:
            raise _error(
                spec, f"the local cache holds commit {builder.hash}, not {commit}; build with the hub in reach"
            )
        if spec.name is None and builder.config.name != "default":
            raise _error(spec, f"the local cache holds the configuration {builder.config.name!r}; set name to it")
    return builder


def _stream(spec: HubSource, builder: DatasetBuilder) -> IterableDataset:
    try:
        return builder.as_streaming_dataset(split=spec.split)
    except ValueError as error:
        if not str(error).startswith("Bad split"):
            raise
        splits = ", ".join(builder.as_streaming_dataset())
        raise _error(spec, f"no split {spec.split!r}; set split to one of: {splits}") from None


def _texts(spec: HubSource, dataset: Dataset | IterableDataset) -> Iterator[str]:
    """The texts of the rows; a null is an empty text, which the build drops and counts."""
    batches = dataset.iter(BATCH_ROWS)
    atexit.register(batches.close)  # a reader that outlives the interpreter can abort it (datasets #7566)
    try:
        for text in (text for batch in batches for text in batch[spec.text_column]):
            if text is not None and not isinstance(text, str):
                kind = type(text).__name__
                raise _error(spec, f"{spec.text_column!r} holds a {kind}, not a string; set text_column to another")
            yield text or ""
    except CorpusError:
        raise
    except Exception as error:
        raise _explained(spec, error) from None
    finally:
        batches.close()
        atexit.unregister(batches.close)
        del batches, dataset
        gc.collect()


def _explained(spec: HubSource, error: Exception) -> CorpusError:
    message = one_line(error)
    if "is a gated dataset" in message:
        return _error(spec, f"{spec.path} is gated: accept its terms on its page, then log in with `hf auth login`")
    if "scripts are no longer supported" in message:
        return _error(
            spec, f"{spec.path} needs a loading script, which is code and never run; look for a copy in Parquet"
        )
    if _offline() and _folder(spec) is None:
        return _error(
            spec,
            f"HF_HUB_OFFLINE is set and the local cache does not serve it: {message}; it is filled by streaming = false",
        )
    return _error(spec, message)


def _error(spec: HubSource, problem: str) -> CorpusError:
    return CorpusError(f"source {spec.label}: {problem}")
