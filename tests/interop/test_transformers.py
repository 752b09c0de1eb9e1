"""Exports as their users open them: AutoTokenizer, Auto classes, pipelines, and nothing to warn of."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parity import TASKS
from runs import electra_jax as in_own_process
from runs import pretrain_args

import electra_jax
from electra_jax.cli import main
from electra_jax.interop.huggingface import HfConfig, read_config, read_folder, write_folder
from electra_jax.interop.portable import read_huggingface

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
AUTO = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
}
TEXT = "the end of a day."


@pytest.fixture
def warnings(caplog):
    """What Transformers logs above information while a test runs."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog.records
    logger.removeHandler(caplog.handler)


def opened(cls: str, folder: Path):
    """Tokenizer and model, nothing missing and nothing left over."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, report = getattr(transformers, cls).from_pretrained(folder, output_loading_info=True)
    assert not {name: found for name, found in report.items() if found}
    return tokenizer, model.eval()


def answers(tokenizer, model, *texts: str):
    with torch.no_grad():
        return model(**tokenizer(*texts, return_tensors="pt"))


def test_pre_trained_networks(folders, warnings):
    loaded = electra_jax.load(folders.discriminator, generator=folders.generator)
    tokenizer, model = opened("AutoModelForPreTraining", folders.discriminator)
    found = torch.sigmoid(answers(tokenizer, model, TEXT).logits)[0, 1:-1].numpy()
    np.testing.assert_allclose(found, [token.probability for token in loaded.detect([TEXT])[0].tokens], atol=1e-5)
    tokenizer, model = opened("AutoModelForMaskedLM", folders.generator)
    fill = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=3)
    candidates = loaded.fill_mask("the [MASK] of", top=3).masks[0].candidates
    assert [entry["token"] for entry in fill("the [MASK] of")] == [candidate.id for candidate in candidates]
    assert [record for record in warnings if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuned_heads(task, folders, warnings):
    loaded = electra_jax.load(folders.tasks[task])
    tokenizer, model = opened(AUTO[task], folders.tasks[task])
    found = answers(tokenizer, model, "a day", "the end.")
    (expected,) = loaded.task_logits([("a day", "the end.")])
    if task == "question_answering":
        theirs = torch.stack([found.start_logits, found.end_logits], -1)[0, 1:-1].numpy()
    else:
        theirs = found.logits[0].numpy() if task == "sequence_classification" else found.logits[0, 1:-1].numpy()
        assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    np.testing.assert_allclose(theirs, expected, atol=1e-5)
    if task == "token_classification":
        entities = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer)(TEXT)
        assert {entity["entity"] for entity in entities} <= {"a", "b", "c"}
        assert next((entity["start"], entity["end"]) for entity in entities) == (0, 3)
    assert [record for record in warnings if record.levelno >= logging.WARNING] == []


def test_a_trained_run_with_its_sentencepiece_tokenizer(small_run, tmp_path):
    form = ("--model.position", "absolute", "--model.norm", "post", "--model.convolution-width", "0")
    in_own_process(*pretrain_args(small_run.data, tmp_path / "run", *form, "--train.steps", "5"), check=True)
    assert main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    tokenizer, model = opened("AutoModelForPreTraining", tmp_path / "out" / "discriminator")
    assert tokenizer.model_max_length == 32  # rows of 32 were all it saw, whatever positions there are
    text = "The chef ate the meal in Marby."
    found = torch.sigmoid(answers(tokenizer, model, text).logits)[0, 1:-1].numpy()
    ours = electra_jax.load(tmp_path / "run").detect([text])[0].tokens
    np.testing.assert_allclose(found, [token.probability for token in ours], atol=1e-5)


def test_a_folder_that_transformers_saved_again_is_read(folders, tmp_path):
    for folder in (folders.discriminator, folders.tasks["sequence_classification"]):
        cls = "AutoModelForPreTraining" if folder == folders.discriminator else AUTO["sequence_classification"]
        tokenizer, model = opened(cls, folder)
        again = tmp_path / folder.name
        model.save_pretrained(again)
        tokenizer.save_pretrained(again)
        first, second = read_huggingface(folder), read_huggingface(again)
        assert second.networks == first.networks
        assert second.tokenizer.fingerprint == first.tokenizer.fingerprint


@pytest.mark.parametrize("labels", [1, 2, 3])
@pytest.mark.parametrize("problem", [None, "regression", "single_label_classification", "multi_label_classification"])
def test_a_head_s_settings_are_read_as_transformers_means_them(labels, problem, tmp_path):
    if labels == 1 and problem == "single_label_classification":
        return
    architecture = {"architectures": ["ElectraForSequenceClassification"]}
    config = transformers.ElectraConfig(num_labels=labels, problem_type=problem, classifier_dropout=0.3, **architecture)
    config.save_pretrained(tmp_path)
    found: HfConfig = read_config(tmp_path)
    assert found.task.problem_type == problem
    assert found.task.dropout == 0.3
    assert found.task.labels == tuple(config.id2label[number] for number in range(labels))


def test_the_settings_we_write_are_what_transformers_reads(folders, tmp_path):
    import dataclasses

    networks = read_huggingface(folders.tasks["sequence_classification"]).networks
    task = dataclasses.replace(networks.task, dropout=0.3, problem_type="multi_label_classification")
    networks = dataclasses.replace(networks, task=task)
    params = read_huggingface(folders.tasks["sequence_classification"]).params
    write_folder(tmp_path, networks, params, "discriminator")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model.classifier.dropout.p == 0.3
    assert model.config.problem_type == "multi_label_classification"
    assert read_folder(tmp_path)[0] == networks


def test_the_advice_for_a_pickle_is_one_that_works(folders, tmp_path, capsys):
    """The sentence's own command, typed: then the folder can be imported."""
    folder = Path(shutil.copytree(folders.discriminator, tmp_path / "model"))
    state = opened("AutoModelForPreTraining", folder)[1].state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    arguments = ["import", "--from", str(folder), "--out", str(tmp_path / "run")]
    assert main(arguments) == 2
    sentence = capsys.readouterr().err
    command = sentence[sentence.index('python -c "') :].strip().replace("python", sys.executable, 1)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, shell=True, check=True, capture_output=True, env=offline)
    assert main(arguments) == 0
    assert (folder / "pytorch_model.bin").exists()
