"""The FLOPs ledger against the published figures, the compiler's count and the program's own products."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import PAPER, SPECIAL, TINY, make_config, make_keys, make_params, make_rows, make_run

from electra_jax import cli
from electra_jax.config import PretrainConfig, num_slots
from electra_jax.model.electra import create_model
from electra_jax.model.flops import train_step_flops
from electra_jax.model.inputs import create_inputs
from electra_jax.presets import load_preset, with_objective
from electra_jax.pretrain.corruption import create_row_keys
from electra_jax.pretrain.objectives import OBJECTIVES
from electra_jax.pretrain.run import plan_state
from electra_jax.pretrain.step import make_train_step
from electra_jax.scale.flops import (
    PUBLISHED,
    StepFlops,
    paper_step_flops,
    paper_train_flops,
    step_flops,
    together,
    train_flops,
)
from electra_jax.training.optimizer import make_optimizer
from electra_jax.training.sharding import create_mesh

CONFIGS = Path(__file__).parents[2] / "configs"


def preset(name: str, objective: str = "electra", steps: int | None = None) -> PretrainConfig:
    config = with_objective(load_preset(CONFIGS / f"{name}.py"), objective)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps or config.train.steps))


def products(jaxpr):
    """Floating-point operations of every matrix product in a program, those of its inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sizes = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * int(np.prod(sizes)) * int(np.prod(equation.outvars[0].aval.shape))
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * products(inner)
    return total


def compiler_flops(config: PretrainConfig) -> float:
    """What the compiler counts in the train step before it optimises: no array of it ever exists.

    After optimisation the count is that of one machine's fusions, which compute some elements twice.
    """
    assert config.runtime.unroll_layers
    assert config.runtime.micro_batches == 1
    mesh = create_mesh(config.runtime.mesh, config.train.batch_size)
    with jax.set_mesh(mesh):
        _, placed = plan_state(config, mesh)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), placed)
    ids = jax.ShapeDtypeStruct((config.train.batch_size, config.data.length), jnp.uint16)
    tx = make_optimizer(config.optimizer, config.train.steps)
    step = make_train_step(config, create_model(config, "cpu"), tx, SPECIAL)
    return jax.jit(step).lower(state, ids).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("name", "objective", "steps", "figure"),
    [
        ("small", "electra", 1_000_000, "1.29e+18"),
        ("small", "mlm", 1_450_000, "1.42e+18"),
        ("base", "electra", 766_000, "6.4e+19"),
        ("large", "electra", 400_000, "7.1e+20"),
        ("large", "electra", 1_750_000, "3.1e+21"),
    ],
)
def test_the_published_figures_to_the_last_digit(name, objective, steps, figure):
    digits = len(figure.split("e")[0]) - 2
    assert f"{paper_train_flops(preset(name, objective, steps)):.{digits}e}" == figure
    assert float(figure) in PUBLISHED.values()


def test_the_papers_way_bills_each_network_dense_look_ups_and_twice_the_forward_pass():
    config = preset("small")
    lines = paper_step_flops(config)
    tokens = 128 * 128
    assert lines.look_ups.forward == 2 * tokens * 2 * (30522 + 128 + 2) * 128
    assert all(line.backward == line.forward for line in lines)
    twin = paper_step_flops(with_objective(config, "mlm"))
    assert 2 * twin.look_ups.forward == lines.look_ups.forward
    assert twin.generator == lines.discriminator
    assert twin.discriminator.train == twin.rtd_head.train == 0


@pytest.mark.parametrize(
    ("name", "objective"),
    [("small", "electra"), ("small", "mlm"), ("base", "electra"), ("tiny", "electra"), ("tiny", "mlm")],
)
def test_what_is_computed_agrees_with_the_compilers_count(name, objective):
    config = preset(name, objective)
    # Asked for is 5%; it is .03% (small), .07% (base) and .25% (tiny).
    assert together(step_flops(config)).train == pytest.approx(compiler_flops(config), rel=0.01)


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


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("objective", ["electra", "mlm"])
@pytest.mark.parametrize("form", [PAPER, TINY], ids=["paper", "tiny"])
def test_the_ledger_holds_every_product_of_the_whole_step(form, objective, optimizer):
    config = make_config(
        model=form, objective={"name": objective}, optimizer={"name": optimizer}, runtime={"unroll_layers": True}
    )
    state, step = make_run(config)
    lines = step_flops(config)
    # The one product that is none in mathematics: the gradient of the MLM bias sums its rows by one.
    bias = 8 * 4 * 2 * config.model.vocab_size
    assert products(jax.make_jaxpr(step)(state, make_rows(0)).jaxpr) == (
        train_step_flops(config) + lines.optimizer.train + bias
    )
    assert sum(line.train for line in lines[:4]) == train_step_flops(config)
    assert (lines.optimizer.train > 0) == (optimizer == "muon")


def test_micro_batches_and_unrolling_cost_nothing():
    config = make_config()
    other = make_config(runtime={"micro_batches": 4, "unroll_layers": True})
    assert step_flops(config) == step_flops(other)


@pytest.mark.parametrize("change", [{"position": "rope"}, {"norm": "pre"}, {"convolution_width": 3}], ids=str)
def test_what_the_paper_has_not_counts_as_elementwise_work(change):
    plain, other = step_flops(make_config()), step_flops(make_config(model=change))
    assert other.elementwise.train > plain.elementwise.train
    assert other._replace(elementwise=plain.elementwise) == plain


def ask(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert cli.main(["flops", *args]) == 0
    return capsys.readouterr().out


def test_the_command_prints_both_ways(capsys):
    said = ask(capsys, "--config", str(CONFIGS / "small.py"))
    assert "1.29e18" in said
    assert "1.17e18" in said
    assert "1.64e10 tokens seen" in said
    assert "1 × ELECTRA-Small (1.29e18)" in said
    assert "discriminator" in said
    assert "discriminator" not in ask(capsys, "--config", str(CONFIGS / "small.py"), "--objective", "mlm")


def test_the_command_takes_pretrains_overrides_and_speaks_json(capsys):
    large = str(CONFIGS / "large.py")
    told = json.loads(ask(capsys, "--config", large, "--train.steps", "1750000", "--objective", "mlm", "--json"))
    config = preset("large", "mlm", 1_750_000)
    assert (told["objective"], told["steps"]) == ("mlm", 1_750_000)
    assert told["tokens"] == 1_750_000 * 2048 * 512
    assert told["paper"]["run_train"] == paper_train_flops(config)
    assert told["computed"]["run_train"] == train_flops(config)
    assert set(told["computed"]["step"]) == set(StepFlops._fields)
    for way in ("paper", "computed"):
        assert told[way]["step_train"] == sum(line["train"] for line in told[way]["step"].values())
    assert told["paper_runs"]["ELECTRA-1.75M"] == paper_train_flops(config) / 3.1e21


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "flops needs --config"),
        (["--config", str(CONFIGS / "huge.py")], "base, large, small, small_plus_plus, tiny"),
        (["--config", str(CONFIGS / "small.py"), "--train.steps", "0"], "steps must be at least 1, not 0"),
    ],
)
def test_bad_input_gets_one_sentence(capsys, args, words):
    assert cli.main(["flops", *args]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
