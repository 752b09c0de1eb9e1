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
    TORCH_CLASSES,
    Step,
    assert_gradients_agree,
    networks_at,
    padded_rows,
    random_params,
    torch_inputs,
    torch_model,
    torch_step,
)
from tiny_models import SPECIAL, make_keys

from electra_jax.config import ObjectiveConfig
from electra_jax.interop.huggingface import SHARED, TORCH, read_folder
from electra_jax.interop.tensors import write_network
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.model.sharing import join
from electra_jax.networks import NetworksConfig
from electra_jax.pretrain.corruption import create_row_keys
from electra_jax.pretrain.objectives import Weights, electra, total_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

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
    rtd_apart = np.abs(ours(networks, params, inputs, Electra.rtd_logits) - rtd)[real].max()
    mlm_apart = np.abs(ours(networks, params, inputs, Electra.mlm_logits, every) - mlm)[real].max()
    print(f"\n{networks.main.hidden_size} wide: RTD logits {rtd_apart:.1e} apart, MLM logits {mlm_apart:.1e}")
    assert max(rtd_apart, mlm_apart) <= 2e-5


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
    apart = np.abs(logits - found)[real].max()
    print(f"\n{size}, {task}: logits {apart:.1e} apart")
    assert apart <= 2e-5


def test_what_torch_saves_is_read_to_the_same_bytes(both, tmp_path):
    """From torch's own files to ours, and out again: every tensor byte for byte."""
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


@pytest.mark.parametrize("head", TORCH_CLASSES)
@pytest.mark.parametrize("size", SIZES)
def test_a_model_of_torch_s_own_making_says_the_same_here(size, head, tmp_path):
    """The other direction from its beginning: settings and weights are Transformers', no setting its default."""
    sizes = networks_at(size)
    config = sizes.generator if head == "generator" else sizes.discriminator
    values = {key: getattr(config, key) for key in SHARED}
    values |= {"layer_norm_eps": 1e-3, "initializer_range": 0.05, "type_vocab_size": 3, "hidden_dropout_prob": 0.2}
    values |= {"attention_probs_dropout_prob": 0.15, "max_position_embeddings": 37}
    torch.manual_seed(0)
    labels = {} if head in ("discriminator", "generator", "question_answering") else {"num_labels": 4}
    theirs = getattr(transformers, TORCH_CLASSES[head])(transformers.ElectraConfig(**values, **labels)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    networks, network = read_folder(tmp_path)
    assert {key: getattr(networks.main, key) for key in SHARED} == values
    inputs = rows_for(networks)
    with torch.no_grad():
        found = theirs(**torch_inputs(inputs))
    is_span = head == "question_answering"
    expected = np.stack([found.start_logits, found.end_logits], -1) if is_span else found.logits.numpy()
    params = join({next(iter(networks.each)): network}, networks)
    every = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
    method = {"generator": Electra.mlm_logits, "discriminator": Electra.rtd_logits}.get(head, Electra.task_logits)
    logits = ours(networks, params, inputs, method, *((every,) if head == "generator" else ()))
    assert logits.shape == expected.shape
    real = slice(None) if head == "sequence_classification" else np.asarray(inputs.attention_mask)
    assert expected.std() > 0.01
    assert np.abs(logits - expected)[real].max() <= 2e-5


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
    models = {name: torch_model(tmp_path / name, networks, params, name) for name in ("generator", "discriminator")}
    masking = out.masking
    draws = (masking.ids, masking.slots, masking.slot_mask, masking.labels, out.corrupted, out.is_replaced)
    drawn = Step(*map(np.asarray, draws))
    assert drawn.is_replaced.sum() > 5
    mlm, rtd, expected = torch_step(models, inputs, drawn)
    np.testing.assert_allclose(out.mlm_loss.sum / out.mlm_loss.weight, mlm, rtol=1e-5)
    np.testing.assert_allclose(out.rtd_loss.sum / out.rtd_loss.weight, rtd, rtol=1e-5)
    np.testing.assert_allclose(loss, mlm + 50 * rtd, rtol=1e-5)
    for name, grads_there in expected.items():
        apart = assert_gradients_agree(write_network(networks, grads, name, TORCH), grads_there)
        print(f"\n{size}, {name}: gradients {apart:.1e} of a tensor's largest entry apart")


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
