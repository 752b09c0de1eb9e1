import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import PAPER, SPECIAL, TINY, make_config, make_keys, make_params, make_rows

from electra_jax.config import num_slots
from electra_jax.model.electra import create_model
from electra_jax.model.flops import train_step_flops
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain.corruption import create_row_keys
from electra_jax.pretrain.objectives import OBJECTIVES


def products(jaxpr):
    """Floating-point operations of every matrix product in a program, those of its inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sizes = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * int(np.prod(sizes)) * int(np.prod(equation.outvars[0].aval.shape))
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += products(inner)
    return total


@pytest.mark.parametrize("objective", ["electra", "mlm"])
@pytest.mark.parametrize("form", [PAPER, TINY], ids=["paper", "tiny"])
def test_a_step_is_three_times_the_products_of_its_forward_pass(form, objective):
    config = make_config(model=form, objective={"name": objective}, runtime={"unroll_layers": True})
    compute = OBJECTIVES[objective].compute
    inputs = create_inputs(jnp.asarray(make_rows(0)), SPECIAL)

    def forward(params):
        keys = create_row_keys(make_keys(8))
        return compute(create_model(config), params, inputs, keys, config.objective, SPECIAL, False)._replace(
            masking=None
        )

    jaxpr = jax.make_jaxpr(forward)(make_params(config)).jaxpr
    assert num_slots(config.objective, 32) == 4
    assert train_step_flops(config) == 3 * products(jaxpr)
