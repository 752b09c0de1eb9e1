"""What becomes of the paper's heads elsewhere: exported where the form is the same, else refused by name."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import LABELS, PIECES, TINY, padded_rows, random_params
from tiny_models import SPECIAL, assert_trees_equal, quick_jit

from electra_jax.errors import UserError
from electra_jax.interop.export import export_huggingface, export_stablehlo
from electra_jax.interop.huggingface import read_folder
from electra_jax.interop.model_card import Facts
from electra_jax.interop.portable import Portable, read_imported, write_imported
from electra_jax.interop.stablehlo import load_stablehlo
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.model.sharing import join
from electra_jax.networks import NetworksConfig, TaskConfig
from electra_jax.text.wordpiece import WordPieceTokenizer

TASKS = {
    "sequence": TaskConfig(name="sequence_classification", labels=LABELS, form="paper"),
    "tokens": TaskConfig(name="token_classification", labels=LABELS, form="paper"),
    "spans": TaskConfig(name="question_answering", labels=("start", "end"), form="paper", answerability=True),
}
NETWORKS = {name: NetworksConfig(discriminator=TINY, task=task) for name, task in TASKS.items()}
IDS = padded_rows(5, 4, 20, TINY.vocab_size)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(PIECES, True, True, "test")


def scores(networks, params):
    model = Electra(networks, Kernels(unroll_layers=False))
    inputs = create_inputs(jnp.asarray(IDS), SPECIAL)
    return quick_jit(lambda params: model.apply({"params": params}, inputs, method=Electra.task_logits))(params)


@pytest.mark.parametrize("name", ["sequence", "spans"])
def test_hugging_face_has_no_such_head(name, tokenizer, tmp_path):
    networks = NETWORKS[name]
    with pytest.raises(UserError, match=r"head of \w+, .* \(task form 'paper'\): fine-tune with --head huggingface"):
        export_huggingface(tmp_path / "out", networks, random_params(networks), tokenizer, Facts(0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dropout", [None, 0.3])
def test_tagging_is_hugging_face_s_own_with_the_paper_s_dropout_written_out(dropout, tokenizer, tmp_path):
    networks = dataclasses.replace(NETWORKS["tokens"], task=dataclasses.replace(TASKS["tokens"], dropout=dropout))
    params = random_params(networks)
    (folder,) = export_huggingface(tmp_path / "out", networks, params, tokenizer, Facts(0))
    assert json.loads((folder / "config.json").read_text())["classifier_dropout"] == (dropout or 0.0)
    theirs, network = read_folder(folder)
    assert theirs.task == TaskConfig(name="token_classification", labels=LABELS, dropout=dropout or 0.0)
    read = scores(theirs, join({"discriminator": network}, theirs))
    np.testing.assert_array_equal(read, scores(networks, params))


@pytest.mark.parametrize("name", ["sequence", "tokens"])
def test_functions_of_the_paper_s_heads(name, tokenizer, tmp_path):
    networks = NETWORKS[name]
    params = random_params(networks)
    (folder,) = export_stablehlo(tmp_path / "out", networks, params, tokenizer, 20)
    expected = scores(networks, params)
    assert np.asarray(expected).std() > 1e-2
    np.testing.assert_allclose(load_stablehlo(folder).task(IDS), expected, rtol=0, atol=1e-5)


def test_no_function_gives_ends_that_depend_on_the_start(tokenizer, tmp_path):
    networks = NETWORKS["spans"]
    with pytest.raises(UserError, match=r"head of question_answering is the paper's \(task form 'paper'\)"):
        export_stablehlo(tmp_path / "out", networks, random_params(networks), tokenizer, 20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TASKS)
def test_a_kept_model_has_its_head_still(name, tokenizer, tmp_path):
    networks = NETWORKS[name]
    params = random_params(networks)
    write_imported(tmp_path / "kept", Portable(networks, params, tokenizer, {}))
    kept = read_imported(tmp_path / "kept")
    assert kept.networks == networks
    assert jax.tree.structure(kept.params) == jax.tree.structure(params)
    assert_trees_equal(kept.params, params)
