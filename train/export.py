"""A trained model as a Hugging Face folder, which transformers loads offline with the same logits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from ..models.hf import hf_config, hf_weights
from .corpus.manifest import TOKENIZER, Manifest
from .trained import Trained, loss_in_words

NAMES = {"adamw": "AdamW", "muon": "Muon with AdamW"}


class ExportError(ValueError):
    """An export that cannot be made; its message is one line."""

    exit_code = 2


def export(trained: Trained, to: Path) -> None:
    """Writes config.json, model.safetensors, the tokenizer, generation_config.json and a model card (README.md).

    The folder appears whole or not at all. Needs the extra `sixnd[hf]`; loading it needs transformers 5.

    Raises:
        ExportError: `to` exists, or safetensors is not installed.
    """
    if to.exists():
        raise ExportError(f"{to}: exists; --to names a folder that does not")
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise ExportError("export needs safetensors: pip install 'sixnd[hf]'") from None
    temporary = to.with_name(f"{to.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        end_of_text_id = trained.receipt.end_of_text_id
        save_file(hf_weights(trained.model.state_dict()), temporary / "model.safetensors", metadata={"format": "pt"})
        _write_json(temporary / "config.json", hf_config(trained.spec.model, end_of_text_id))
        special = {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id, "pad_token_id": end_of_text_id}
        _write_json(temporary / "generation_config.json", special)
        _write_tokenizer(trained, temporary)
        (temporary / "README.md").write_text(model_card(trained), encoding="utf-8")
        temporary.rename(to)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_tokenizer(trained: Trained, folder: Path) -> None:
    """The run's tokenizer, which from now on opens every text with the end-of-text token, as the corpus stores documents."""
    tokenizer = Tokenizer.from_file(str(trained.folder / TOKENIZER))
    end_of_text = tokenizer.id_to_token(trained.receipt.end_of_text_id)
    tokenizer.post_processor = TemplateProcessing(
        single=[end_of_text, "$A"],
        pair=[end_of_text, "$A", end_of_text, "$B"],
        special_tokens=[(end_of_text, trained.receipt.end_of_text_id)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "TokenizersBackend",
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "pad_token": end_of_text,
        "model_max_length": trained.spec.model.context,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # text that spells the token is text
    }
    _write_json(folder / "tokenizer_config.json", config)


def model_card(trained: Trained) -> str:
    """What the model is, how it was trained, what it reached, and on which text under which licences."""
    record, shape, receipt = trained.record, trained.spec.model, trained.receipt
    facts = {
        "shape": f"{shape.n_layers} layers, width {shape.d_model}, {shape.n_heads} heads of {shape.head_dim}, d_ff {shape.d_ff},"
        f" vocabulary {shape.vocab_size:,}, context {shape.context}",
        "N": f"{record.N_total:,} parameters, {record.N_non_embedding:,} without the embedding (tied)",
        "D": f"{record.D:,} tokens, each seen once",
        "C": f"{record.C_6nd:.3e} FLOPs as 6·N·D; {record.C_exact:.3e} in matrix products",
        "test loss": f"{loss_in_words(record)} (± one standard error over documents)",
        "training": f"{NAMES[trained.spec.optimizer.name]}, peak lr {record.lr:.3g}, batch of {record.batch_tokens:,} tokens, seed {record.seed}, {trained.spec.precision}",
        "made": f"{record.finished_at} with sixnd {record.sixnd_version} and torch {record.torch_version} on {record.device}",
    }
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [sixnd]",
            "---",
            f"# {trained.folder.resolve().name}",
            "",
            "A small language model trained by sixnd to measure a scaling law; it knows no more than its corpus.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "",
            *_corpus_lines(receipt),
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")',
            'ids = tokenizer("The", return_tensors="pt").input_ids  # opens with the end-of-text token, as in training',
            f"print(tokenizer.decode(model.generate(ids, max_length={shape.context})[0]))",
            "```",
            "",
        ]
    )


def _corpus_lines(receipt: Manifest) -> list[str]:
    rows = (
        f"| {source.name} | {source.version} | {source.licence} | {source.train.documents:,} | {source.train.tokens:,} |"
        for source in receipt.sources
    )
    return [
        f"## Corpus {receipt.name} ({receipt.hash})",
        "",
        "| source | version | licence | training documents | training tokens |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Held out: {receipt.test.documents:,} documents, {receipt.test.tokens:,} tokens (texts' sha256 {receipt.test_text_sha256[:16]}).",
    ]


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
