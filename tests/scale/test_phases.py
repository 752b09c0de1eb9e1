import jax
import jax.numpy as jnp
from tiny_models import SPECIAL, assert_trees_close, make_config, make_keys, make_params, make_rows, quick_jit

from electra_jax.model.dropout import create_seeds
from electra_jax.model.electra import Electra, create_model
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain.corruption import choose_and_mask, create_row_keys
from electra_jax.pretrain.step import accumulate_gradients
from electra_jax.scale.phases import make_phases, time_phases
from electra_jax.training.optimizer import make_optimizer
from electra_jax.training.sharding import create_mesh


def test_the_phases_are_the_step():
    """What generator and discriminator give alone adds up to a step's gradient."""
    config = make_config()
    model, params = create_model(config), make_params(config)
    phases = make_phases(config, model, make_optimizer(config.optimizer, 10), SPECIAL)
    inputs, each = create_inputs(jnp.asarray(make_rows(0)), SPECIAL), make_keys(8)
    keys = create_row_keys(each)

    def in_phases(params):
        masking = choose_and_mask(inputs, keys, config.objective, SPECIAL)
        masked, seeds = inputs._replace(ids=masking.ids), create_seeds(keys.generator_dropout)
        logits = model.apply({"params": params}, masked, masking.slots, seeds, method=Electra.mlm_logits)
        generator = phases["generator"](params, inputs, keys)
        corrupted, is_replaced = phases["sampling"](logits, inputs, keys)
        discriminator = phases["discriminator"](params, corrupted, is_replaced, keys)
        return jax.tree.map(lambda one, other: one + other, generator, discriminator)

    whole, _ = quick_jit(lambda params: accumulate_gradients(params, inputs, each, config, model, SPECIAL))(params)
    assert_trees_close(quick_jit(in_phases)(params), whole, 1e-5)


def test_each_phase_takes_time():
    config = make_config()
    mesh = create_mesh(config.runtime.mesh, 8, jax.devices()[:1])
    with jax.set_mesh(mesh):
        seconds = time_phases(config, make_params(config), make_rows(0), SPECIAL, mesh, rounds=2)
    assert list(seconds) == ["data", "generator", "sampling", "discriminator", "update"]
    assert all(0 < taken < 60 for taken in seconds.values())
