"""Groups of settings: typed, checked, and JSON there and back."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_models import make_config

from electra_jax.config import MeshConfig, ModelConfig, ObjectiveConfig, PrepareConfig, PretrainConfig, RuntimeConfig
from electra_jax.errors import UserError
from electra_jax.settings import from_json, to_json

GROUPS = ("model", "generator", "objective", "data", "optimizer", "train", "runtime")
# None of them is of any declared type where it stands.
JUNK = ("seven", [], {"seven": 7}, (1, 2), float("nan"), float("inf"), b"x", -(10**400))


def paths():
    """Every setting of a pre-training run as (group, name)."""
    config = make_config()
    return [(group, field.name) for group in GROUPS for field in dataclasses.fields(getattr(config, group))]


@st.composite
def configs(draw):
    heads = draw(st.integers(1, 4))
    hidden = heads * 2 * draw(st.integers(1, 64))
    rates = st.floats(0, 0.99)
    positive = st.floats(1e-12, 1e3)
    micro = draw(st.integers(1, 4))
    sharing = draw(st.sampled_from(["none", "token", "all", "gdes"]))
    return make_config(
        model={
            "vocab_size": draw(st.integers(1, 10**6)),
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "hidden_dropout_prob": draw(rates),
            "layer_norm_eps": draw(positive),
            "embedding_sharing": sharing,
            "position": draw(st.sampled_from(["absolute", "rope"])),
            "rope_base": draw(positive),
            "convolution_width": draw(st.sampled_from([0, 1, 3, 5])),
        },
        generator={"width_fraction": 1.0, "num_attention_heads": heads},
        objective={
            "name": draw(st.sampled_from(["electra", "mlm"])),
            "mask_prob": draw(st.floats(0.001, 0.999)),
            "temperature": draw(positive),
        },
        optimizer={
            "learning_rate": draw(positive),
            "warmup_steps": draw(st.integers(0, 10**9)),
            "per_network": sharing in ("none", "gdes") and draw(st.booleans()),
        },
        train={"batch_size": micro * draw(st.integers(1, 100)), "seed": draw(st.integers(0, 2**32 - 1))},
        runtime={
            "micro_batches": micro,
            "mesh": MeshConfig(data=draw(st.integers(1, 8)), fsdp=-1),
            "peak_tflops": draw(st.none() | positive),
        },
    )


@given(configs())
def test_json_there_and_back_changes_nothing(config):
    assert from_json(PretrainConfig, json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(("group", "name"), paths())
def test_a_value_of_a_wrong_type_is_one_sentence(group, name):
    for junk in JUNK:
        if junk == "seven" and name == "init_from":
            continue  # a place may have any name
        values = to_json(make_config())
        values[group][name] = junk
        with pytest.raises(UserError) as caught:
            from_json(PretrainConfig, values)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@given(group=st.sampled_from(GROUPS), name=st.text(max_size=12))
def test_an_unknown_setting_is_named(group, name):
    values = to_json(make_config())
    assume(name not in values[group])
    values[group][name] = 1
    with pytest.raises(UserError, match=rf"config\.{group}: unknown settings \[") as caught:
        from_json(PretrainConfig, values)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(("group", "name"), paths())
def test_a_missing_setting_has_its_default_or_is_named(group, name):
    config = make_config()
    values = to_json(config)
    del values[group][name]
    (field,) = (field for field in dataclasses.fields(getattr(config, group)) if field.name == name)
    if field.default is field.default_factory:  # it has neither
        with pytest.raises(UserError, match=rf"config\.{group}: unknown settings \[\], missing settings \['{name}'\]"):
            from_json(PretrainConfig, values)
        return
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default
    expected = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{name: default})})
    assert from_json(PretrainConfig, values) == expected


@pytest.mark.parametrize("values", [None, [], "config", {"model": 3}, {}])
def test_what_is_no_group_of_settings_is_refused(values):
    with pytest.raises(UserError):
        from_json(PretrainConfig, values)


def test_a_boolean_is_no_number_and_a_number_no_boolean():
    for name, value in (("steps", True), ("batch_size", 8.0)):
        with pytest.raises(UserError, match=name):
            make_config(train={name: value})
    with pytest.raises(UserError, match="decay_in_warmup"):
        make_config(optimizer={"decay_in_warmup": 1})
    assert make_config(optimizer={"learning_rate": 1}).optimizer.learning_rate == 1


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config().train.steps = 3


def test_options_and_unions_are_described():
    with pytest.raises(UserError, match="one of electra, mlm"):
        ObjectiveConfig(mask_prob=0.1, name="bert")
    with pytest.raises(UserError, match="a float or nothing"):
        RuntimeConfig(peak_tflops="many")
    with pytest.raises(UserError, match=r"ModelConfig\.vocab_size"):
        dataclasses.replace(make_config().model, vocab_size="50")
    with pytest.raises(TypeError):
        ModelConfig(vocab=3)


def test_a_tuple_s_members_are_checked():
    assert PrepareConfig(out=Path("x"), corpus=("a", "b")).corpus == ("a", "b")
    for corpus in (("a", 3), "a", ["a"]):
        with pytest.raises(UserError, match="corpus"):
            PrepareConfig(out=Path("x"), corpus=corpus)
