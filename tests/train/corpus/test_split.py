"""Which documents train and which are held out, and in which mixture."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sixnd.train.corpus.sources import Document
from sixnd.train.corpus.spec import CorpusSpec, FilesSource
from sixnd.train.corpus.store import Corpus, damaged_files

from tests.conftest import make_documents, make_source, tiny_spec
from tests.train.corpus.test_build import SPEC, built, texts

# --- the split --------------------------------------------------------------------------------------------------------


def test_the_split_survives_reordering_and_additions(tmp_path: Path) -> None:
    documents = make_documents(200)
    more = random.Random(0).sample(documents, len(documents)) + make_documents(50, seed=9)
    one, two = built(tmp_path, [make_source(documents)]), built(tmp_path, [make_source(more)])
    for side in ("train", "test"):
        assert set(texts(one, side)) <= set(texts(two, side))
    assert 0.1 < one.manifest.test.documents / 200 < 0.3


def test_a_validation_side_moves_neither_the_test_set_nor_itself(tmp_path: Path) -> None:
    """Its documents come from the training side; more text and another order change neither held-out side."""
    documents = make_documents(200)
    more = random.Random(0).sample(documents, len(documents)) + make_documents(50, seed=9)
    without = built(tmp_path, [make_source(documents)])
    spec = tiny_spec(validation_fraction=0.2)
    one, two = built(tmp_path, [make_source(documents)], spec), built(tmp_path, [make_source(more)], spec)
    assert texts(one, "test") == texts(without, "test")
    assert sorted(texts(one, "validation") + texts(one, "train")) == sorted(texts(without, "train"))
    assert 0.1 < one.manifest.sides["validation"].documents / 200 < 0.3
    for side in ("train", "test", "validation"):
        assert set(texts(one, side)) <= set(texts(two, side))
    assert one.validation_documents.offsets[-1] == len(one.validation) == one.manifest.sides["validation"].tokens
    assert sum(count.documents for count in one.manifest.sides.values()) == 200
    damaged = one.path / one.manifest.validation_shards[0].file
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert list(damaged_files(one)) == [damaged.name]


def test_a_corpus_without_a_validation_side_is_as_it_was_before_there_was_one(tmp_path: Path) -> None:
    corpus = built(tmp_path, [make_source(make_documents(60))])
    assert "validation" not in (corpus.path / "manifest.json").read_text()
    assert "validation" not in SPEC.model_dump_json()
    assert len(corpus.validation) == 0 and list(corpus.manifest.sides) == ["train", "test"]


@pytest.mark.parametrize("keep", ["first", "all"])
def test_no_cluster_of_near_duplicates_straddles_the_validation_side(tmp_path: Path, keep: str) -> None:
    """Three versions of every document, which a split by text alone would scatter over the sides."""
    documents = [
        Document("made-up", f"{d.id}-{n}", f"{d.text} {'and so on ' * n}") for d in make_documents(90) for n in range(3)
    ]
    spec = tiny_spec(validation_fraction=0.2, near={"keep": keep, "similarity": 0.7, "rows": 2})
    corpus = built(tmp_path, [make_source(documents)], spec)
    side_of = {text.split(" and so on")[0].strip(): set[str]() for text in (d.text for d in documents)}
    for side in corpus.manifest.sides:
        for text in texts(corpus, side):
            side_of[text.split(" and so on")[0].strip()].add(side)
    assert {len(sides) for sides in side_of.values()} == {1}
    assert {side for sides in side_of.values() for side in sides} == {"train", "test", "validation"}


def test_the_validation_side_is_the_same_at_any_amount_of_training_text(tmp_path: Path) -> None:
    documents = make_documents(300)
    whole, part = (
        CorpusSpec.model_validate(
            tiny_spec(test_bytes=8_000, validation_fraction=0.2, validation_bytes=6_000).model_dump()
            | {"sources": [FilesSource(kind="files", name="made-up", paths=("*",), max_bytes=most)]}
        )
        for most in (None, 30_000)
    )
    one, two = (built(tmp_path, [make_source(documents)], spec) for spec in (whole, part))
    assert one.manifest.train.documents > 2 * two.manifest.train.documents
    assert texts(one, "validation") == texts(two, "validation") and texts(one, "test") == texts(two, "test")
    assert 5_000 < one.manifest.sides["validation"].bytes <= 6_000


def test_validation_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="validation_bytes needs validation_fraction"):
        tiny_spec(validation_bytes=1000)
    with pytest.raises(ValueError, match="needs validation_bytes"):
        tiny_spec(test_bytes=1000, validation_fraction=0.1)


def test_no_text_stands_on_both_sides_or_twice(tmp_path: Path) -> None:
    documents = make_documents(50)
    shouted = [Document(d.source, f"{d.id}-loud", f"  {d.text.upper()}\n") for d in documents]
    corpus = built(tmp_path, [make_source([*documents, *documents, *shouted])])
    kept = [" ".join(text.lower().split()) for text in texts(corpus, "train") + texts(corpus, "test")]
    assert len(kept) == len(set(kept)) == 50
    (source,) = corpus.manifest.sources
    exact = next(step for step in source.steps if step.step == "exact")
    assert exact.dropped == {"exact": 100}
    assert all(example.reason.startswith("exact: same text as doc-") for example in exact.examples)


@pytest.mark.parametrize("max_bytes", [3_000, 20_000, 100_000])
def test_the_test_set_is_the_same_at_any_amount_of_training_text(tmp_path: Path, max_bytes: int) -> None:
    """Near-duplicates of held-out text that come in with more training text do not change it either."""
    documents = make_documents(300)
    copies = [Document(d.source, f"{d.id}-again", d.text + " end") for d in documents]
    whole = [*documents, *copies]

    def corpus(size: int) -> Corpus:
        source = FilesSource(kind="files", name="made-up", paths=("*",), max_bytes=size)
        return built(tmp_path, [make_source(whole)], tiny_spec(sources=[source], test_bytes=10_000, vocab_size=256))

    reference, other = corpus(60_000), corpus(max_bytes)
    assert other.manifest.test_text_sha256 == reference.manifest.test_text_sha256
    assert other.manifest.test.documents == reference.manifest.test.documents > 10
    assert other.manifest.test.bytes <= 10_000
    assert other.manifest.train.bytes <= max_bytes
    assert not set(texts(other, "test")) & {text.removesuffix(" end") for text in texts(other, "train")}


def test_a_cap_on_training_text_needs_one_on_the_test_set() -> None:
    source = FilesSource(kind="files", name="a", paths=("*",), max_bytes=1000)
    with pytest.raises(ValueError, match="max_bytes of a needs test_bytes"):
        tiny_spec(sources=[source])


def test_no_near_duplicate_straddles_the_split_even_where_all_are_kept(tmp_path: Path) -> None:
    documents = make_documents(60)
    variants = [Document(d.source, f"{d.id}-{i}", f"{d.text} {i}") for d in documents for i in range(4)]
    corpus = built(tmp_path, [make_source(variants)], tiny_spec(near={"keep": "all"}))
    train, test = ({text.rsplit(" ", 1)[0] for text in texts(corpus, side)} for side in ("train", "test"))
    assert train and test and not train & test
    assert corpus.manifest.train.documents > len(train)


# --- the mixture ------------------------------------------------------------------------------------------------------


def two_sources(**weights: float) -> list[FilesSource]:
    return [FilesSource(kind="files", name=name, paths=("*",), weight=weights.get(name)) for name in ("a", "b")]


def test_weights_set_the_shares_of_the_training_text(tmp_path: Path) -> None:
    sources = [make_source(make_documents(100, source="a"), "a"), make_source(make_documents(100, 1, source="b"), "b")]
    corpus = built(tmp_path, sources, tiny_spec(sources=two_sources(a=3, b=1)))
    a, b = (source.train.bytes for source in corpus.manifest.sources)
    assert a / (a + b) == pytest.approx(0.75, abs=0.02)
    mixture = [next(step for step in source.steps if step.step == "mixture") for source in corpus.manifest.sources]
    assert not mixture[0].dropped and mixture[1].dropped["mixture"] > 10


def test_less_training_text_is_a_part_of_more(tmp_path: Path) -> None:
    source = make_source(make_documents(200))
    small, large = (built(tmp_path, [source], tiny_spec(train_bytes=size)) for size in (10_000, 30_000))
    assert set(texts(small, "train")) < set(texts(large, "train"))
    assert small.manifest.test_text_sha256 == large.manifest.test_text_sha256
    assert 8_000 < small.manifest.train.bytes <= 10_000 < large.manifest.train.bytes <= 30_000
