"""The settings that a fine-tuning has when nobody names them, and those that somebody does."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import preset

from electra_jax.commands.finetuning import FinetuneArgs, config_of
from electra_jax.errors import UserError
from electra_jax.finetune.batching import collate
from electra_jax.finetune.config import FinetuneConfig, Recipe, recipe_for
from electra_jax.finetune.glue import GlueConfig
from electra_jax.finetune.members import place_members
from electra_jax.tasks.known import find_task
from electra_jax.training.optimizer import make_schedule
from tests.finetune.tiny_programs import tiny_config, tiny_program

SMALL = preset("small").model


def config_for(model: str = "run", **given: Any) -> FinetuneConfig:
    like = "run" if model == "none" else None
    return config_of(FinetuneArgs(model=model, like=like, out=Path("out"), **given), find_task("rte"), SMALL)


@pytest.mark.parametrize(
    ("size", "learning_rate", "layer_decay"),
    [
        ("tiny", 1e-3, 0.8),
        ("small", 3e-4, 0.8),
        ("small_plus_plus", 3e-4, 0.8),
        ("base", 1e-4, 0.8),
        ("large", 5e-5, 0.9),
    ],
)
def test_the_recipe_of_each_preset(size: str, learning_rate: float, layer_decay: float) -> None:
    assert recipe_for(preset(size).model) == Recipe(learning_rate, layer_decay)


def test_what_nobody_names_follows_the_size_and_the_task() -> None:
    """RTE has ten epochs and the others three (paper, Appendix B)."""
    config = config_for()
    assert (config.learning_rates, config.layer_decay) == ((3e-4,), 0.8)
    assert (config.epochs, config.length) == (10.0, 128)
    assert (config.seeds, config.batch_size, config.dropout) == ((0, 1, 2, 3, 4), 32, 0.1)
    assert (config.warmup_share, config.weight_decay, config.layer_decay_form) == (0.1, 0.0, "paper")
    assert config_of(FinetuneArgs(model="run", out=Path("out")), find_task("mnli"), SMALL).epochs == 3.0


def test_what_is_named_is_taken() -> None:
    given = {"epochs": 0.5, "length": 64, "layer_decay": 0.7, "layer_decay_form": "google", "dropout": 0.0}
    config = config_for(**given, learning_rates="1e-4,2e-4", seeds=2, first_seed=7)
    assert {name: getattr(config, name) for name in given} == given
    assert (config.learning_rates, config.seeds) == ((1e-4, 2e-4), (7, 8))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"epochs": 0.0}, "epochs must be above 0, not 0"),
        ({"length": 0}, "length must be at least 8 tokens, not 0"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\], not 0"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"evaluations": 0}, "evaluations must be at least 1, not 0"),
        ({"learning_rates": "0"}, "learning rates must be above 0"),
        ({"learning_rates": ""}, "give numbers with commas between"),
    ],
)
def test_nothing_that_is_named_is_replaced(given: dict[str, Any], sentence: str) -> None:
    """Zeros and empty lists neither: they are refused."""
    with pytest.raises(UserError, match=sentence):
        config_for(**given)


def test_random_weights_are_not_preserved() -> None:
    assert config_for("none").layer_decay == 1.0
    assert config_for("none", layer_decay=0.9).layer_decay == 0.9


def test_a_tenth_of_the_steps_warms_up() -> None:
    """And then the rate falls to 0; the member's own rate is no part of it."""
    optimizer = tiny_config().optimizer(200)
    assert (optimizer.warmup_steps, optimizer.learning_rate) == (20, 1.0)
    schedule = make_schedule(optimizer, 200)
    factors = np.array([float(schedule(jnp.array(step))) for step in range(201)])
    assert factors.argmax() in (19, 20)
    assert factors[0] == factors[200] == 0
    assert tiny_config(warmup_share=0.25).optimizer(200).warmup_steps == 50


def test_the_settings_of_the_update_are_the_fine_tuning_s() -> None:
    changed = {"weight_decay": 0.01, "clip_norm": 2.0, "bias_correction": True}
    optimizer = tiny_config(**changed).optimizer(10)
    assert {name: getattr(optimizer, name) for name in changed} == changed


def updates_of_one_step(**changes: Any) -> dict[str, np.ndarray]:
    """What a member's first step adds to its parameters, by their paths."""
    program = tiny_program(seeds=(0,), warmup_share=0.0, dropout=0.0, **changes)
    seeds = jnp.zeros(1, jnp.uint32)
    state = program.fresh(seeds, place_members(1))
    before = jax.device_get(state.params)
    plan = program.plan(0)
    batch = collate(program.train_rows, plan.rows[:1], int(plan.bucket[0]))
    after, _ = program.step(seeds, jnp.ones(1), state, jax.tree.map(jnp.asarray, batch))
    found = jax.tree.map(np.subtract, jax.device_get(after.params), before)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


def test_the_form_of_the_layer_decay_reaches_the_update() -> None:
    """Google's has one more step of it everywhere but in the head."""
    ours, theirs = (updates_of_one_step(layer_decay=0.5, layer_decay_form=form) for form in ("paper", "google"))
    assert any("task_head" in name for name in ours)
    for name, update in ours.items():
        assert np.abs(update).max() > 0, name
        factor = 1.0 if "task_head" in name else 0.5
        np.testing.assert_allclose(theirs[name], factor * update, rtol=1e-3, atol=1e-5, err_msg=name)


def test_every_setting_of_the_command_is_a_setting_of_the_fine_tuning() -> None:
    """None of them is forgotten on the way: each, changed alone, changes the settings."""
    others: dict[str, Any] = {
        "seeds": 3, "first_seed": 1, "learning_rates": "1e-5", "epochs": 1.0, "length": 16, "batch_size": 8,
        "batches": "random", "head": "huggingface", "layer_decay": 0.5, "layer_decay_form": "google",
        "warmup_share": 0.2, "weight_decay": 0.01, "dropout": 0.2, "clip_norm": 2.0, "bias_correction": True,
        "evaluations": 3,
    }  # fmt: skip
    usual = config_for()
    for name, value in others.items():
        assert config_for(**{name: value}) != usual, name
    fields = {field.name for field in dataclasses.fields(FinetuneConfig)}
    reached = {field for name, value in others.items() for field in differing(usual, config_for(**{name: value}))}
    assert reached == fields - {"task", "model", "like", "runtime"}


def test_every_setting_of_a_fine_tuning_is_one_of_glue() -> None:
    """Or tasks of different settings would go into one table."""
    names, ours = ({field.name for field in dataclasses.fields(kind)} for kind in (FinetuneConfig, GlueConfig))
    assert names - {"task", "model", "like", "runtime"} == ours - {"protocol", "from_mnli"}


def differing(one: FinetuneConfig, other: FinetuneConfig) -> set[str]:
    names = (field.name for field in dataclasses.fields(FinetuneConfig))
    return {name for name in names if getattr(one, name) != getattr(other, name)}
