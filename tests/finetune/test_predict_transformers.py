"""Folders that Transformers wrote answer here, and ours give the same logits there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import electra_jax
from electra_jax.finetune.answers import Answered, Classified, Tagged
from electra_jax.interop.export import export_huggingface
from electra_jax.interop.model_card import Facts, read_facts
from electra_jax.interop.portable import Portable, write_imported
from tests.finetune.tiny_tasks import task, tiny_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TEXT = "The value of an expression is returned."


def written_by_transformers(folder: Path, cls: str, **settings: Any) -> Any:
    """A model of random weights and its tokenizer, saved as their users save them."""
    ours = tiny_model(task("tagging", labels=("a", "b")), form="huggingface")
    export_huggingface(folder / "ours", ours.model.networks, ours.params, ours.tokenizer, Facts(0))
    torch.manual_seed(0)
    config = transformers.ElectraConfig(
        vocab_size=ours.tokenizer.vocab_size,
        embedding_size=16,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.3,
        **settings,
    )
    model = getattr(transformers, cls)(config).eval()
    model.save_pretrained(folder / "theirs")
    transformers.AutoTokenizer.from_pretrained(folder / "ours").save_pretrained(folder / "theirs")
    return model


def asked(folder: Path, model: Any, *texts: str) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(*texts, return_tensors="pt"))


def test_a_classifier_of_theirs(tmp_path: Path) -> None:
    names = {0: "bad", 1: "fair", 2: "good"}
    theirs = written_by_transformers(tmp_path, "ElectraForSequenceClassification", id2label=names, num_labels=3)
    model = electra_jax.load(tmp_path / "theirs")
    assert isinstance(model, electra_jax.FineTuned)
    one, pair = model.predict([TEXT, (TEXT, "It is a list.")])
    for found, texts in ((one, (TEXT,)), (pair, (TEXT, "It is a list."))):
        assert isinstance(found, Classified)
        expected = torch.softmax(asked(tmp_path / "theirs", theirs, *texts).logits[0], -1).tolist()
        assert list(found.probabilities) == ["bad", "fair", "good"]
        assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-5)


def test_a_tagger_of_theirs(tmp_path: Path) -> None:
    names = {0: "O", 1: "B-X", 2: "I-X"}
    theirs = written_by_transformers(tmp_path, "ElectraForTokenClassification", id2label=names, num_labels=3)
    model = electra_jax.load(tmp_path / "theirs")
    assert isinstance(model, electra_jax.FineTuned)
    (found,) = model.predict([TEXT])
    assert isinstance(found, Tagged)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    logits = asked(tmp_path / "theirs", theirs, TEXT).logits[0]
    offsets = tokenizer(TEXT, return_offsets_mapping=True).offset_mapping
    begins = {start: at for at, (start, end) in enumerate(offsets) if start < end}
    for word in found.words:
        scores = torch.softmax(logits[begins[word.start]], -1)
        assert word.tag == names[int(scores.argmax())]
        assert word.probability == pytest.approx(float(scores.max()), abs=1e-5)


def test_a_reader_of_theirs(tmp_path: Path) -> None:
    """The best span by their own scores, of at most 30 tokens within the context."""
    theirs = written_by_transformers(tmp_path, "ElectraForQuestionAnswering")
    model = electra_jax.load(tmp_path / "theirs")
    assert isinstance(model, electra_jax.FineTuned)
    question = "What is returned?"
    (found,) = model.predict([(question, TEXT)])
    assert isinstance(found, Answered)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    encoded = tokenizer(question, TEXT, return_offsets_mapping=True)
    scores = asked(tmp_path / "theirs", theirs, question, TEXT)
    places = [at for at, part in enumerate(encoded.sequence_ids()) if part == 1]
    spans = [(first, last) for first in places for last in places if first <= last < first + 30]
    first, last = max(spans, key=lambda span: float(scores.start_logits[0, span[0]] + scores.end_logits[0, span[1]]))
    offsets = encoded.offset_mapping
    assert (found.start, found.end) == (offsets[first][0], offsets[last][1])


def test_an_export_gives_the_same_logits_there(tmp_path: Path) -> None:
    described = task("classification", labels=("bad", "good"), pair="pair")
    ours = tiny_model(described, form="huggingface")
    source = {
        "format": "fine-tuning", "task": "tiny", "kind": "classification", "from": "runs/small", "seed": 3,
        "learning_rate": 3e-4, "epochs": 3.0, "length": 64, "metric": "accuracy", "measured": {"accuracy": 0.9},
    }  # fmt: skip
    write_imported(tmp_path / "run", Portable(ours.model.networks, ours.params, ours.tokenizer, source))
    facts = read_facts(tmp_path / "run", 0, None)
    (folder,) = export_huggingface(tmp_path / "hf", ours.model.networks, ours.params, ours.tokenizer, facts)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.config.id2label == {0: "bad", 1: "good"}
    assert tokenizer.model_max_length == 64
    pairs = [(TEXT, "It is a list."), ("The value", TEXT)]
    with torch.no_grad():
        logits = theirs(**tokenizer(*map(list, zip(*pairs, strict=True)), return_tensors="pt", padding=True)).logits
    np.testing.assert_allclose(logits.numpy(), ours.task_logits(pairs), atol=1e-5)
    found = ours.predict(pairs)
    for answer, row in zip(found, torch.softmax(logits, -1).tolist(), strict=True):
        assert isinstance(answer, Classified)
        assert list(answer.probabilities.values()) == pytest.approx(row, abs=1e-5)
