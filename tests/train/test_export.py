"""A run's folder and its export, loaded by transformers itself: the same logits, loss, tokens and text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import sixnd.train.export as export_module
import torch
import torch.nn.functional as F
from sixnd.train.corpus.store import Corpus
from sixnd.train.corpus.tokenizer import END_OF_TEXT
from sixnd.train.evaluate import IGNORED, HeldOutWindows, evaluate
from sixnd.train.export import ExportError, export, model_card
from sixnd.train.loop import train
from sixnd.train.sample import Sampling, sample_tokens
from sixnd.train.spec import RunSpec
from sixnd.train.trained import RECEIPT, RECORD, WEIGHTS, Trained, TrainedError, load_trained, write_run


def quiet(_: str) -> None: ...


def train_into(folder: Path, spec: RunSpec, corpus: Corpus) -> Path:
    """What `sixnd train` leaves."""
    record = train(spec, corpora=corpus.path.parent, weights=folder / WEIGHTS, listener=lambda _: None, say=quiet)
    write_run(folder, record, corpus)
    return folder


@pytest.fixture(params=[False, True], ids=["llama", "qwen3"], scope="session")
def folder(
    request: pytest.FixtureRequest, run_spec: RunSpec, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A trained run without QK-norm, and one with it."""
    model = run_spec.model.model_copy(update={"n_layers": 2, "qk_norm": request.param})
    spec = run_spec.model_copy(update={"model": model, "precision": "fp32"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        return train_into(tmp_path_factory.mktemp("run"), spec, corpus)


@pytest.fixture
def trained(folder: Path) -> Trained:
    return load_trained(folder)


def document_tokens(corpus: Corpus, document: int) -> list[int]:
    first, last = corpus.test_documents.offsets[document : document + 2].tolist()
    tokens: list[int] = corpus.test.windows(np.array([first]), last - first)[0].astype(int).tolist()
    return tokens


def test_a_run_is_read_back_as_it_was_trained(trained: Trained, corpus: Corpus) -> None:
    windows = HeldOutWindows.of(corpus, trained.spec.model.context)
    loss = evaluate(trained.model, corpus, windows, 4, torch.float32)
    assert loss.mean == pytest.approx(trained.record.test_loss, rel=1e-6)
    assert trained.receipt.hash == corpus.hash and trained.receipt.test_documents == ()


def test_transformers_loads_it_offline_with_the_same_logits_loss_and_tokens(
    trained: Trained, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="the extra sixnd[hf] and transformers are not installed")
    to = tmp_path / "exported"
    export(trained, to)
    model = transformers.AutoModelForCausalLM.from_pretrained(to)
    tokenizer = transformers.AutoTokenizer.from_pretrained(to)

    assert type(model).__name__ == ("Qwen3" if trained.spec.model.qk_norm else "Llama") + "ForCausalLM"
    assert model.dtype == torch.float32 and model.num_parameters() == trained.record.N_total
    assert model.lm_head.weight is model.model.embed_tokens.weight
    windows = HeldOutWindows.of(corpus, trained.spec.model.context)
    with torch.no_grad():
        logits_WTV = model(windows.inputs_WT).logits
        assert (logits_WTV - trained.model.logits(windows.inputs_WT)).abs().max() < 1e-5
        loss = F.cross_entropy(logits_WTV.flatten(0, 1).double(), windows.targets_WT.flatten(), ignore_index=IGNORED)
        assert loss.item() == pytest.approx(trained.record.test_loss, rel=1e-6)

        for document in range(3):
            stored = document_tokens(corpus, document)
            text = corpus.tokenizer().decode(stored[1:])
            assert tokenizer(text).input_ids == stored, "a text opens with end-of-text, as the corpus stores it"
            assert tokenizer.decode(stored, skip_special_tokens=True) == text
        assert tokenizer.eos_token == END_OF_TEXT
        spelled = tokenizer(f"a{END_OF_TEXT}b").input_ids[1:]
        assert spelled == corpus.tokenizer().encode(f"a{END_OF_TEXT}b", add_special_tokens=False).ids

        opening = tokenizer("ab", return_tensors="pt").input_ids
        said = model.generate(opening, do_sample=False, max_new_tokens=8)[0, opening.shape[1] :].tolist()
    ours = list(sample_tokens(trained.model, opening[0].tolist(), tokenizer.eos_token_id, Sampling(8, temperature=0)))
    assert [token for token in said if token != tokenizer.eos_token_id] == ours


def test_the_folder_is_tied_and_its_card_says_what_it_is(trained: Trained, corpus: Corpus, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="the extra sixnd[hf] is not installed")
    to = tmp_path / "new" / "exported"
    export(trained, to)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert {file.name for file in to.iterdir()} == names | {"README.md"}
    with safetensors.safe_open(to / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    config = json.loads((to / "config.json").read_text())
    assert config["tie_word_embeddings"] is True and "rope_theta" in config["rope_parameters"]
    card, record = (to / "README.md").read_text(), trained.record
    for fact in (f"{record.N_total:,}", f"{record.D:,}", f"{record.C_6nd:.3e}", f"{record.test_loss:.4f}", corpus.hash):
        assert fact in card
    assert "| made-up | 1 | CC0-1.0 |" in card


def test_an_existing_folder_is_refused_and_a_failed_export_leaves_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("safetensors", reason="the extra sixnd[hf] is not installed")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExportError, match="mine: exists") as error:
        export(trained, tmp_path / "mine")
    assert "\n" not in str(error.value) and not list((tmp_path / "mine").iterdir())

    def full(_: Trained) -> str:
        assert (tmp_path / f"half.{export_module.os.getpid()}.tmp" / "model.safetensors").is_file()
        raise OSError("No space left on device")

    monkeypatch.setattr(export_module, "model_card", full)
    with pytest.raises(OSError, match="No space"):
        export(trained, tmp_path / "half")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_without_safetensors_it_says_what_to_install(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ExportError, match=r"pip install 'sixnd\[hf\]'"):
        export(trained, tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_one_held_out_document_has_no_standard_error(trained: Trained) -> None:
    record = trained.record.model_copy(update={"test_loss_se": None})
    assert "nats per token" in model_card(Trained(**{**vars(trained), "record": record}))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (WEIGHTS, None, "missing"),
        (WEIGHTS, b"PK not weights", "cannot be read as the run's weights"),
        ("tokenizer.json", None, "missing"),
        (RECEIPT, b"{}", "not the receipt of a corpus"),
        (RECORD, b"{}", "not the record of a run"),
        (RECORD, None, "no trained run here"),
    ],
)
def test_a_damaged_run_is_named_in_one_line(
    folder: Path, tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for file in folder.iterdir():
        if file.name != name:
            (copy / file.name).write_bytes(file.read_bytes())
        elif content is not None:
            (copy / name).write_bytes(content)
    with pytest.raises(TrainedError, match=says) as error:
        load_trained(copy)
    assert "\n" not in str(error.value) and str(copy) in str(error.value)


def test_weights_cut_short_or_of_another_shape_are_refused(folder: Path, trained: Trained, tmp_path: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    state = trained.model.state_dict()
    for damage in ("short", "shape", "name"):
        copy = tmp_path / damage
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        if damage == "short":
            (copy / WEIGHTS).write_bytes(whole[: len(whole) // 2])
        elif damage == "shape":
            torch.save(state | {"embedding": torch.zeros(3, 3)}, copy / WEIGHTS)
        else:
            torch.save({name: tensor for name, tensor in state.items() if name != "embedding"}, copy / WEIGHTS)
        with pytest.raises(TrainedError, match="weights") as error:
            load_trained(copy)
        assert "\n" not in str(error.value)


def test_a_diverged_run_has_no_model(run_spec: RunSpec, corpus: Corpus, tmp_path: Path) -> None:
    hot = run_spec.optimizer.model_copy(update={"lr": 1e30})
    train_into(tmp_path / "run", run_spec.model_copy(update={"optimizer": hot}), corpus)
    with pytest.raises(TrainedError, match="diverged"):
        load_trained(tmp_path / "run")
