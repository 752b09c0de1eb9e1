"""Ours against Transformers on torch: logits, losses and gradients. Where torch is absent, test_golden.py remains."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import (
    TASKS,
    TINY,
    networks_at,
    padded_rows,
    random_params,
    torch_inputs,
    torch_model,
)
from tiny_models import SPECIAL, make_keys

from electra_jax.config import ObjectiveConfig
from electra_jax.interop.huggingface import TORCH, read_folder
from electra_jax.interop.tensors import write_network
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.model.sharing import join
from electra_jax.networks import NetworksConfig
from electra_jax.pretrain.corruption import create_row_keys
from electra_jax.pretrain.objectives import Weights, electra, total_loss

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SIZES = ["tiny", "small", "base"]
ROWS, LENGTH = 4, 32


@pytest.fixture(scope="module", params=SIZES)
def both(request, tmp_path_factory):
    """A size's networks with random parameters, and Transformers' models of them."""
    networks = networks_at(request.param)
    params = random_params(networks)
    folder = tmp_path_factory.mktemp(request.param)
    theirs = {name: torch_model(folder / name, networks, params, name) for name in ("generator", "discriminator")}
    return networks, params, theirs, folder


def rows_for(networks):
    ids = padded_rows(1, ROWS, LENGTH, networks.main.vocab_size)
    return create_inputs(jnp.asarray(ids), SPECIAL)


def ours(networks, params, inputs, method, *rest):
    model = Electra(networks, Kernels(unroll_layers=False))
    return np.asarray(jax.jit(lambda params: model.apply({"params": params}, inputs, *rest, method=method))(params))


def test_logits_of_both_networks(both):
    networks, params, theirs, _ = both
    inputs = rows_for(networks)
    real = np.asarray(inputs.attention_mask)
    every = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
    with torch.no_grad():
        rtd = theirs["discriminator"](**torch_inputs(inputs)).logits.numpy()
        mlm = theirs["generator"](**torch_inputs(inputs)).logits.numpy()
    assert rtd.std() > 0.1
    assert mlm.std() > 0.1
    assert np.abs(ours(networks, params, inputs, Electra.rtd_logits) - rtd)[real].max() <= 2e-5
    assert np.abs(ours(networks, params, inputs, Electra.mlm_logits, every) - mlm)[real].max() <= 2e-5


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", SIZES)
def test_logits_of_the_fine_tuned_heads(task, size, tmp_path):
    networks = NetworksConfig(discriminator=networks_at(size).discriminator, task=TASKS[task])
    params = random_params(networks)
    inputs = rows_for(networks)
    model = torch_model(tmp_path, networks, params, "discriminator")
    with torch.no_grad():
        found = model(**torch_inputs(inputs))
    logits = ours(networks, params, inputs, Electra.task_logits)
    if task == "question_answering":
        found = np.stack([found.start_logits.numpy(), found.end_logits.numpy()], axis=-1)
    else:
        found = found.logits.numpy()
    real = slice(None) if task == "sequence_classification" else np.asarray(inputs.attention_mask)
    assert found.std() > 0.1
    assert np.abs(logits - found)[real].max() <= 2e-5


def test_what_torch_saves_is_read_to_the_same_bytes(both, tmp_path):
    """From torch's own files to ours, and out again: every tensor byte for byte, and the same logits."""
    networks, _, theirs, _ = both
    rows_for(networks)
    for name, model in theirs.items():
        model.save_pretrained(tmp_path / name)
        found_networks, network = read_folder(tmp_path / name)
        params = join({name: network}, found_networks)
        saved = dict(model.state_dict())
        tensors = write_network(found_networks, params, name, TORCH)
        tied = {"generator_lm_head.weight"} if name == "generator" else set()
        assert tensors.keys() == saved.keys() - tied
        for key, value in tensors.items():
            assert value.tobytes() == saved[key].numpy().tobytes(), key


@pytest.mark.parametrize("size", SIZES)
def test_losses_and_every_gradient_of_a_joint_step(size, tmp_path):
    """The same masks and samples for both, dropout off: RTD loss, MLM loss and each parameter's gradient.

    At the spread that published networks begin with: in deep networks of larger random matrices all tokens come to
    look alike, and the gradient of attention's query is rounding (torch's float32 is 9e-4 away from its float64).
    """
    networks = networks_at(size)
    params = random_params(networks, kernel_scale=0.3)
    model, inputs = Electra(networks, Kernels(unroll_layers=False)), rows_for(networks)
    objective = ObjectiveConfig(mask_prob=0.15)
    keys = create_row_keys(make_keys(ROWS))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def step(params):
        out = electra(model, params, inputs, keys, objective, SPECIAL, False)
        return total_loss(out, Weights(out.mlm_loss.weight, out.rtd_loss.weight), objective), out

    (loss, out), grads = step(params)
    generator, discriminator = (
        torch_model(tmp_path / name, networks, params, name) for name in ("generator", "discriminator")
    )
    generator.electra.embeddings = discriminator.electra.embeddings  # one group for both, as ours
    generator.tie_weights()
    labels = np.full(inputs.ids.shape, -100)  # what their loss leaves out
    used = np.asarray(out.masking.slot_mask)
    labels[np.nonzero(used)[0], np.asarray(out.masking.slots)[used]] = np.asarray(out.masking.labels)[used]
    mlm = generator(**torch_inputs(inputs, out.masking.ids), labels=torch.tensor(labels)).loss
    is_replaced = torch.tensor(np.asarray(out.is_replaced).astype(np.int64))
    rtd = discriminator(**torch_inputs(inputs, out.corrupted), labels=is_replaced).loss
    assert is_replaced.sum() > 5
    np.testing.assert_allclose(out.mlm_loss.sum / out.mlm_loss.weight, mlm.item(), rtol=1e-5)
    np.testing.assert_allclose(out.rtd_loss.sum / out.rtd_loss.weight, rtd.item(), rtol=1e-5)
    total = objective.gen_weight * mlm + objective.disc_weight * rtd
    np.testing.assert_allclose(loss, total.item(), rtol=1e-5)
    total.backward()
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        expected = {key: value.grad.numpy() for key, value in network.named_parameters()}
        found = write_network(networks, grads, name, TORCH)
        assert found.keys() == expected.keys()
        largest = max(np.abs(grad).max() for grad in expected.values())
        for key, grad in found.items():
            # The gradient of the key's bias vanishes in exact arithmetic: what is left is rounding.
            scale = largest if key.endswith("self.key.bias") else np.abs(expected[key]).max()
            assert np.abs(grad - expected[key]).max() <= 1e-4 * scale, key
            assert key.endswith("self.key.bias") or scale > 0


def test_a_network_of_equal_embedding_and_hidden_size_has_no_projection(tmp_path):
    config = dataclasses.replace(TINY, embedding_size=24)
    networks = NetworksConfig(discriminator=config)
    params = random_params(networks)
    assert "embeddings_project" not in params["discriminator_encoder"]
    model = torch_model(tmp_path, networks, params, "discriminator")
    inputs = rows_for(networks)
    with torch.no_grad():
        expected = model(**torch_inputs(inputs)).logits.numpy()
    real = np.asarray(inputs.attention_mask)
    assert np.abs(ours(networks, params, inputs, Electra.rtd_logits) - expected)[real].max() <= 2e-5
