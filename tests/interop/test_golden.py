"""The main checks of test_parity.py against answers of Transformers that were kept: they need no torch.

`make_golden.py` writes them; the weights and rows are drawn again here, the same by their seeds.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import TASKS, TINY, TORCH_CLASSES, Step, assert_gradients_agree, networks_at, padded_rows, random_params
from safetensors.numpy import save_file
from tiny_models import SPECIAL

from electra_jax.interop.huggingface import TORCH, read_folder
from electra_jax.interop.tensors import write_network
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.networks import NetworksConfig
from electra_jax.pretrain.objectives import cross_entropy, mean, rtd_loss
from electra_jax.text.wordpiece import WordPieceTokenizer

ROWS, LENGTH = 4, 32


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).with_name("golden.npz"), allow_pickle=False) as file:
        return dict(file)


def rows_for(networks):
    return create_inputs(jnp.asarray(padded_rows(1, ROWS, LENGTH, networks.main.vocab_size)), SPECIAL)


def test_the_weights_are_those_that_were_asked_about(golden):
    """Should NumPy ever draw others from the same seed, this says so, and make_golden.py mends it."""
    params = random_params(networks_at("tiny"), kernel_scale=0.3)
    np.testing.assert_array_equal(jax.tree.leaves(params)[0], golden["drawn"])


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_logits_of_both_networks(size, golden):
    networks = networks_at(size)
    params, inputs = random_params(networks), rows_for(networks)
    model = Electra(networks, Kernels(unroll_layers=False))
    every = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
    real = np.asarray(inputs.attention_mask)
    rtd = jax.jit(lambda p: model.apply({"params": p}, inputs, method=Electra.rtd_logits))(params)
    mlm = jax.jit(lambda p: model.apply({"params": p}, inputs, every, method=Electra.mlm_logits))(params)
    assert np.abs(np.asarray(rtd) - golden[f"{size}/discriminator"])[real].max() <= 2e-5
    expected = golden[f"{size}/generator"]
    assert np.abs(np.asarray(mlm)[..., : expected.shape[-1]] - expected)[real].max() <= 2e-5


@pytest.mark.parametrize("task", TASKS)
def test_logits_of_the_fine_tuned_heads(task, golden):
    networks = NetworksConfig(discriminator=networks_at("tiny").discriminator, task=TASKS[task])
    params, inputs = random_params(networks), rows_for(networks)
    model = Electra(networks, Kernels(unroll_layers=False))
    logits = jax.jit(lambda p: model.apply({"params": p}, inputs, method=Electra.task_logits))(params)
    real = slice(None) if task == "sequence_classification" else np.asarray(inputs.attention_mask)
    assert np.abs(np.asarray(logits) - golden[f"tiny/{task}"])[real].max() <= 2e-5


def test_losses_and_every_gradient_of_a_joint_step(golden):
    networks = networks_at("tiny")
    params, inputs = random_params(networks, kernel_scale=0.3), rows_for(networks)
    model = Electra(networks, Kernels(unroll_layers=False))
    step = Step(*(jnp.asarray(golden[f"step/{name}"]) for name in Step._fields))

    @jax.jit
    @jax.value_and_grad
    def loss_of(params):
        masked, corrupted = inputs._replace(ids=step.masked), inputs._replace(ids=step.corrupted)
        scores = model.apply({"params": params}, masked, step.slots, method=Electra.mlm_logits)
        mlm = mean(cross_entropy(scores, step.labels), step.slot_mask)
        rtd = rtd_loss(
            model.apply({"params": params}, corrupted, method=Electra.rtd_logits),
            step.is_replaced,
            inputs.attention_mask,
        )
        return mlm.sum / mlm.weight + 50 * rtd.sum / rtd.weight

    loss, grads = loss_of(params)
    np.testing.assert_allclose(loss, golden["mlm_loss"] + 50 * golden["rtd_loss"], rtol=1e-5)
    for network in ("generator", "discriminator"):
        prefix = f"grads/{network}/"
        expected = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
        assert_gradients_agree(write_network(networks, grads, network, TORCH), expected)


@pytest.fixture(scope="module")
def kept():
    return json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("head", TORCH_CLASSES)
def test_a_folder_as_transformers_saved_it_is_read(head, kept, tmp_path):
    """Its settings and its tensors' names and shapes; the values are drawn here."""
    folder = kept["folders"][head]
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in folder["tensors"].items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(folder["config"]))
    networks, network = read_folder(tmp_path)
    assert networks.main == TINY
    assert network.head
    kernel = network.encoder["layer"]["attention"]["query"]["kernel"][1]
    np.testing.assert_array_equal(kernel, tensors["electra.encoder.layer.1.attention.self.query.weight"].T)


@pytest.mark.parametrize("casing", ["uncased", "cased"])
def test_tokens_are_those_of_transformers_bert(casing, kept):
    tokens = kept["tokens"]
    lower = casing == "uncased"
    tokenizer = WordPieceTokenizer(tokens["pieces"], lower_case=lower, strip_accents=lower, where="golden.json")
    assert len(tokens["lines"]) > 150
    for line, (ids, offsets) in zip(tokens["lines"], tokens[casing], strict=True):
        found = tokenizer.encode(line)
        assert found.ids == ids, line
        assert [list(span) for span in found.offsets] == offsets, line
    assert tokenizer.encode_batch(tokens["lines"]) == [ids for ids, _ in tokens[casing]]
