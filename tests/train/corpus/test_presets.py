"""Every preset is a valid corpus, says where it comes from, and names what it was checked against."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from sixnd.train.corpus.sources.packages import PACKAGES
from sixnd.train.corpus.spec import CorpusSpec, HubSource, PackageSource

FOLDER = Path(str(files("sixnd.train.corpus.presets")))
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
ROOT = Path(__file__).parents[3]


def read(name: str) -> CorpusSpec:
    return CorpusSpec.model_validate(tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")))


def comment(name: str) -> str:
    lines = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def hub_sources(name: str) -> list[HubSource]:
    return [source for source in read(name).sources if isinstance(source, HubSource)]


def test_the_text_that_the_field_names_is_there() -> None:
    needed = {
        "demo",
        "full",
        "python",
        "c4",
        "fineweb-edu",
        "pile",
        "wikipedia-en",
        "wikipedia-ja",
        "code",
        "tinystories",
    }
    assert {*needed, "wikitext-103", "openwebtext", "massivetext-like"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_a_valid_corpus_of_its_own_name(name: str) -> None:
    assert read(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_hub_preset_says_licence_card_and_what_was_checked(name: str) -> None:
    sources = hub_sources(name)
    text = comment(name).lower()
    for source in sources:
        assert source.licence != "not stated"
        assert source.revision is None  # no commit is invented: the first build writes down the newest
        assert name == "massivetext-like" or f"huggingface.co/datasets/{source.path}".lower() in text
    if sources:
        assert "checked on 2026-11-24 against" in text and "not checked: " in text


@pytest.mark.parametrize("name", NAMES)
def test_a_hub_preset_fixes_its_test_set_and_stays_small(name: str) -> None:
    spec = read(name)
    if hub_sources(name):
        assert spec.test_bytes == 20_000_000
        whole = {"tinystories", "wikitext-103"}
        assert name in whole or sum(source.max_bytes or 10**12 for source in spec.sources) <= 2_000_000_000


def test_full_is_all_packages() -> None:
    assert {source.name for source in read("full").sources if isinstance(source, PackageSource)} == PACKAGES.keys()


def test_the_mixture_adds_up() -> None:
    weights = {source.label: source.weight for source in read("massivetext-like").sources}
    assert sum(weight or 0 for weight in weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_about_sources_lists_every_preset(name: str) -> None:
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    assert f"| `{name}` |" in page
    for source in hub_sources(name):
        assert source.path in page and source.licence.split(" ")[0] in page
