"""Which documents came before: the same text, and nearly the same text, among all documents of a corpus in one order.

Each answer names an earlier document, or the document itself, and depends on the documents up to it alone: what is found
for the first documents stays true whatever follows them. So a test set that stands first is the same for any amount of
training text, and a training document near one of its documents is linked to that and not to other training text.

Near-duplicates are found by locality-sensitive hashing: documents are compared where their MinHash signatures agree in
every row of some band, as those of a pair with Jaccard similarity s do with probability 1 - (1 - s^rows)^bands (Leskovec,
Rajaraman & Ullman, Mining of Massive Datasets, section 3.4). FineWeb takes 14 bands of 8 rows over 5-grams, for pairs
above s = .75 (Penedo et al. 2024, section 3.4). A document with 5 % of its words changed here and there keeps .95^5 of
its 5-grams and so has s = .63 to what it was, of which 14 x 8 finds 30 %; 28 x 4 of the same 112 hashes finds 99 %.

Shape suffixes: T documents, H hash functions, B bands, R rows of a band, C candidates (documents that share a band).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from .minhash import NO_WORDS
from .spec import NearDuplicates
from .words import BASE, U64, mix

DIGEST_BYTES = 16
BANDS_AT_ONCE = 4  # made in one pass over the signatures; each takes 8 bytes a document
ROUNDS = 32  # leaders that the documents of a run are compared with at most, so that no run takes quadratic time
DOCUMENTS = 2**13  # read at a time
PAIRS = 2**13  # compared at a time
INDEX_BITS, INDEX_MASK = U64(32), U64(2**32 - 1)


def bytes_per_document(near: NearDuplicates) -> tuple[int, int]:
    """What a document takes: on disk (its digest and signature), and in memory at most while duplicates are sought.

    Blocks take another 15 MB of memory at 112 hashes, whatever the number of documents.
    """
    return DIGEST_BYTES + 4 * near.bands * near.rows, 8 * BANDS_AT_ONCE + 60


def digests(texts: Sequence[str]) -> NDArray[np.uint64]:
    """(T, 2): the 128-bit XXH3 hash of each text, lower-cased and every run of white space taken as one space."""
    parts = (" ".join(text.lower().split()).encode(errors="surrogatepass") for text in texts)
    hashes = b"".join(xxhash.xxh3_128_digest(part) for part in parts)
    return np.frombuffer(hashes, ">u8").astype(U64).reshape(-1, 2)


def first_copies(digests_T2: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(T,): the first document with the same digest, its own index where it is the first; takes 57 bytes a document."""
    order_T = np.lexsort(digests_T2.T)  # stable: copies stay in the order of the documents
    sorted_T2 = digests_T2[order_T]
    is_first_T = np.ones(len(order_T), bool)
    is_first_T[1:] = (sorted_T2[1:] != sorted_T2[:-1]).any(axis=1)
    first_T = np.empty(len(order_T), np.int64)
    first_T[order_T] = order_T[is_first_T][np.cumsum(is_first_T) - 1]
    return first_T


def near_first(
    signatures_TH: NDArray[np.uint32], near: NearDuplicates, alive_T: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(T,): an earlier document that each one is a near-duplicate of, the earliest found; or its own index.

    Only living documents are compared. A pair counts that shares a band and agrees in `near.similarity` of all hashes;
    of two living documents that are both their own first, none such is left (but in a run of more than ROUNDS groups).
    The signatures, of up to 2^32 documents, may be a memory map: ceil(bands / BANDS_AT_ONCE) passes read it in blocks.
    """
    first_T = np.arange(len(signatures_TH))
    takes_part_T = alive_T & (signatures_TH[:, 0] != NO_WORDS)
    for runs_C, documents_C in _shared_bands(signatures_TH, near, takes_part_T):
        _link(first_T, signatures_TH, near.similarity, runs_C, documents_C)
    return first_T


def clusters(first_T: NDArray[np.int64]) -> NDArray[np.int64]:
    """(T,): where the links of each document end, the earliest document of its cluster."""
    root_T = first_T
    while not np.array_equal(root_T, next_T := root_T[root_T]):
        root_T = next_T
    return root_T


def _shared_bands(
    signatures_TH: NDArray[np.uint32], near: NearDuplicates, takes_part_T: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Of each band: the documents that share it with another, by what they share and then in their order."""
    n_documents = len(signatures_TH)
    multipliers_R = mix(np.arange(1, near.rows + 1, dtype=U64) * U64(BASE)) | U64(1)
    for band in range(0, near.bands, BANDS_AT_ONCE):
        n_bands = min(BANDS_AT_ONCE, near.bands - band)
        columns = slice(band * near.rows, (band + n_bands) * near.rows)
        keys_BT = np.empty((n_bands, n_documents), U64)
        for begin in range(0, n_documents, DOCUMENTS):
            block_TH = signatures_TH[begin : begin + DOCUMENTS, columns].astype(U64)
            hashes_TB = mix(block_TH.reshape(-1, n_bands, near.rows) @ multipliers_R)
            index_T = np.arange(begin, begin + len(block_TH), dtype=U64)
            # A hash of the band above, the document below: one sort puts equal bands together and in order. Bands whose
            # 32-bit hashes are equal by chance cost a comparison, nothing else.
            keys_BT[:, begin : begin + DOCUMENTS] = (hashes_TB & ~INDEX_MASK).T | index_T
        for keys_T in keys_BT:
            keys_C = np.sort(keys_T[takes_part_T])
            keys_C = keys_C[_has_equal_neighbour(keys_C >> INDEX_BITS)]
            yield keys_C >> INDEX_BITS, (keys_C & INDEX_MASK).astype(np.int64)


def _link(
    first_T: NDArray[np.int64],
    signatures_TH: NDArray[np.uint32],
    similarity: float,
    runs_C: NDArray[np.uint64],
    documents_C: NDArray[np.int64],
) -> None:
    """Compares the documents of each run with its first; those unlike it are a run again, with a first of their own."""
    for _ in range(ROUNDS):
        if len(runs_C) == 0:
            return
        starts = np.flatnonzero(np.diff(runs_C, prepend=~runs_C[:1]))
        leaders_C = np.repeat(documents_C[starts], np.diff(starts, append=len(runs_C)))
        is_near_C = _agreement(signatures_TH, documents_C, leaders_C) >= similarity
        linked = documents_C[is_near_C]
        first_T[linked] = np.minimum(first_T[linked], leaders_C[is_near_C])
        runs_C, documents_C = runs_C[~is_near_C], documents_C[~is_near_C]
        left_C = _has_equal_neighbour(runs_C)
        runs_C, documents_C = runs_C[left_C], documents_C[left_C]


def _agreement(
    signatures_TH: NDArray[np.uint32], some_C: NDArray[np.int64], others_C: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(C,): the share of hashes that two documents have in common, which estimates their Jaccard similarity."""
    share_C = np.empty(len(some_C))
    for begin in range(0, len(some_C), PAIRS):
        pairs = slice(begin, begin + PAIRS)
        share_C[pairs] = (signatures_TH[some_C[pairs]] == signatures_TH[others_C[pairs]]).mean(axis=1)
    return share_C


def _has_equal_neighbour(runs_C: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which numbers of a sorted array are there more than once."""
    equal = np.zeros(len(runs_C) + 1, bool)
    equal[1:-1] = runs_C[1:] == runs_C[:-1]
    return equal[1:] | equal[:-1]
