"""The presets are the paper's, and what cannot be is refused in one sentence."""

import ast
import dataclasses
import json
import math
from pathlib import Path

import pytest
from tiny_models import make_config

from electra_jax.config import PrepareConfig, differences, generator_model, num_slots, read_config
from electra_jax.errors import UserError
from electra_jax.model.electra import count_parameters
from electra_jax.presets import load_preset, with_objective
from electra_jax.settings import to_json

CONFIGS = Path(__file__).parent.parent / "configs"
PRESETS = ("tiny", "small", "small_plus_plus", "base", "large")

# Paper, Table 6 and Appendix A; the released Small's generator and steps for small_plus_plus.
PAPER = {
    "small": {
        "sizes": (12, 256, 1024, 4, 128), "generator": (64, 256, 1), "mask_prob": 0.15, "learning_rate": 5e-4,
        "batch_size": 128, "length": 128, "steps": 1_000_000, "slots": 19,
    },
    "small_plus_plus": {
        "sizes": (12, 256, 1024, 4, 128), "generator": (256, 1024, 4), "mask_prob": 0.15, "learning_rate": 5e-4,
        "batch_size": 128, "length": 128, "steps": 4_000_000, "slots": 19,
    },
    "base": {
        "sizes": (12, 768, 3072, 12, 768), "generator": (256, 1024, 4), "mask_prob": 0.15, "learning_rate": 2e-4,
        "batch_size": 256, "length": 512, "steps": 766_000, "slots": 79,
    },
    "large": {
        "sizes": (24, 1024, 4096, 16, 1024), "generator": (256, 1024, 4), "mask_prob": 0.25, "learning_rate": 2e-4,
        "batch_size": 2048, "length": 512, "steps": 400_000, "slots": 130,
    },
}  # fmt: skip
COUNTS = {
    "small": {"generator": 4_620_026, "discriminator": 13_549_057},
    "small_plus_plus": {"generator": 13_546_682, "discriminator": 13_549_057},
    "base": {"generator": 33_740_602, "discriminator": 109_483_009},
    "large": {"generator": 51_295_290, "discriminator": 335_142_913},
}


def preset(name):
    return load_preset(CONFIGS / f"{name}.py")


def test_the_folder_holds_these_presets():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(PRESETS)


@pytest.mark.parametrize("name", PAPER)
def test_sizes_and_hyperparameters_are_the_paper_s(name):
    config, expected = preset(name), PAPER[name]
    model, generator = config.model, generator_model(config)
    assert config.name == name
    assert expected == {
        "sizes": (model.num_hidden_layers, model.hidden_size, model.intermediate_size, model.num_attention_heads,
                  model.embedding_size),
        "generator": (generator.hidden_size, generator.intermediate_size, generator.num_attention_heads),
        "mask_prob": config.objective.mask_prob,
        "learning_rate": config.optimizer.learning_rate,
        "batch_size": config.train.batch_size,
        "length": config.data.length,
        "steps": config.train.steps,
        "slots": num_slots(config.objective, config.data.length),
    }  # fmt: skip
    assert generator.num_hidden_layers == model.num_hidden_layers


@pytest.mark.parametrize("name", PAPER)
def test_what_all_paper_presets_share(name):
    config = preset(name)
    shared = {
        "vocab_size": 30_522, "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-12, "initializer_range": 0.02,
        "initialization": "truncated_normal", "embedding_sharing": "all", "position": "absolute", "norm": "post",
        "convolution_width": 0,
    }  # fmt: skip
    assert {key: getattr(config.model, key) for key in shared} == shared
    shared = {
        "name": "adam", "b1": 0.9, "b2": 0.999, "eps": 1e-6, "bias_correction": False, "weight_decay": 0.01,
        "clip_norm": 1.0, "schedule": "linear", "warmup_steps": 10_000, "decay_in_warmup": True, "per_network": False,
        "decay_norms_and_biases": False,
    }  # fmt: skip
    assert {key: getattr(config.optimizer, key) for key in shared} == shared
    shared = {
        "name": "electra", "mask_token_prob": 0.85, "gen_weight": 1.0, "disc_weight": 50.0, "temperature": 1.0,
        "sampler": "gumbel", "masked_positions": "unique", "rtd_special_tokens": True,
    }  # fmt: skip
    assert {key: getattr(config.objective, key) for key in shared} == shared


@pytest.mark.parametrize("name", PAPER)
def test_every_choice_of_the_published_code_stands_in_the_preset_itself(name):
    """What a reader may look for is stated there, whatever the default."""
    tree = ast.parse((CONFIGS / f"{name}.py").read_text(encoding="utf-8"))
    stated = {keyword.arg for call in ast.walk(tree) if isinstance(call, ast.Call) for keyword in call.keywords}
    assert stated >= {
        "mask_prob", "masked_positions", "mask_token_prob", "rtd_special_tokens", "bias_correction",
        "decay_norms_and_biases", "decay_in_warmup", "embedding_sharing", "initialization",
    }  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_parameter_counts_are_the_paper_s(name):
    assert count_parameters(preset(name)) == COUNTS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_the_mlm_twin_trains_one_network_of_full_size(name):
    config = preset(name)
    twin = with_objective(config, "mlm")
    assert twin.objective == dataclasses.replace(config.objective, name="mlm")
    assert generator_model(twin) == config.model
    assert (twin.data, twin.optimizer, twin.train) == (config.data, config.optimizer, config.train)
    counts = count_parameters(twin)
    assert counts.keys() == {"generator"}
    if name != "tiny":
        # A discriminator with BERT's prediction head in the place of its own.
        h, e, v = config.model.hidden_size, config.model.embedding_size, config.model.vocab_size
        rtd, mlm = h * h + h + h + 1, h * e + e + 2 * e + v
        assert counts["generator"] == COUNTS[name]["discriminator"] - rtd + mlm
    assert with_objective(config, "electra") == config
    # A size given by hand is the network's, whatever the generator's would have been.
    wider = dataclasses.replace(twin, model=dataclasses.replace(twin.model, num_attention_heads=1))
    assert generator_model(wider) == wider.model


def test_the_mlm_twin_keeps_a_feed_forward_size_of_one_s_own():
    config = make_config(model={"intermediate_size": 80})
    assert generator_model(config).intermediate_size == 40
    assert generator_model(with_objective(config, "mlm")) == config.model


@pytest.mark.parametrize(
    ("length", "mask_prob", "slots"), [(128, 0.15, 19), (512, 0.15, 79), (512, 0.25, 130), (8, 0.01, 1)]
)
def test_slots(length, mask_prob, slots):
    assert num_slots(make_config(objective={"mask_prob": mask_prob}).objective, length) == slots


@pytest.mark.parametrize(
    ("group", "values", "words"),
    [
        ("model", {"num_attention_heads": 3}, "cannot be divided among 3 attention heads"),
        ("model", {"hidden_size": 0}, "hidden_size must be at least 1"),
        ("model", {"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be in"),
        ("model", {"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob must be in"),
        ("model", {"convolution_width": 2}, "convolution_width must be odd"),
        ("model", {"convolution_width": -1}, "convolution_width must"),
        ("model", {"position": "rope", "num_attention_heads": 32}, "head size must be even"),
        ("model", {"layer_norm_eps": 0}, "layer_norm_eps must be above 0"),
        ("model", {"max_position_embeddings": 16}, "do not fit 16 learned positions"),
        ("generator", {"width_fraction": 0}, "width_fraction"),
        ("generator", {"width_fraction": 1.0, "num_attention_heads": 5}, "cannot be divided among 5 attention heads"),
        ("generator", {"num_attention_heads": 0}, "num_attention_heads must be at least 1"),
        ("objective", {"mask_prob": 0.0}, "mask_prob must be in"),
        ("objective", {"mask_token_prob": 1.5}, "mask_token_prob must be in"),
        ("objective", {"masked_positions": "twice"}, "one of unique, with_replacement"),
        ("objective", {"temperature": 0.0}, "temperature must be above 0"),
        ("objective", {"disc_weight": -1.0}, "disc_weight must not be negative"),
        ("data", {"length": 7}, "length must be at least 8"),
        ("optimizer", {"learning_rate": -1e-3}, "learning_rate must be above 0"),
        ("optimizer", {"b2": 1.0}, "b2 must be in"),
        ("optimizer", {"warmup_steps": -1}, "warmup_steps must not be negative"),
        ("optimizer", {"muon_steps": 0}, "muon_steps must be at least 1"),
        ("optimizer", {"per_network": True}, "one optimizer per network needs embedding_sharing none or gdes"),
        ("train", {"steps": 0}, "steps must be at least 1"),
        ("train", {"seed": 2**32}, "seed must be in"),
        ("runtime", {"micro_batches": 3}, "cannot be cut into 3 micro-batches"),
        ("runtime", {"vocab_chunks": 3}, "the 8 rows of a micro-batch cannot be cut into 3 chunks"),
        ("runtime", {"micro_batches": 2, "vocab_chunks": 8}, "the 4 rows of a micro-batch cannot be cut into 8 chunks"),
        ("runtime", {"log_every": 0}, "log_every must be at least 1"),
    ],
)
def test_an_impossible_combination_is_one_sentence(group, values, words):
    with pytest.raises(UserError, match=words) as caught:
        make_config(**{group: values})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [({"corpus": ()}, "at least one"), ({"length": 3}, "length"), ({"valid_share": 1.0}, "valid_share"),
     ({"workers": 0}, "workers"), ({"vocab_size": 8}, "vocab_size"), ({"sample_mb": 0}, "sample_mb")],
)  # fmt: skip
def test_impossible_data_sets(values, words):
    with pytest.raises(UserError, match=words):
        PrepareConfig(out=Path("x"), **values)


def test_differences_are_those_that_change_the_result():
    old = make_config()
    assert differences(old, make_config(runtime={"log_every": 3, "dtype": "bfloat16"})) == []
    new = make_config(optimizer={"learning_rate": 0.5}, train={"steps": 7}, runtime={"log_every": 3})
    assert differences(old, new) == ["optimizer.learning_rate: 0.001 → 0.5", "train.steps: 100 → 7"]
    for group in ("model", "generator", "objective", "data", "optimizer", "train"):
        field = dataclasses.fields(getattr(old, group))[-1].name
        changed = dataclasses.replace(getattr(old, group))
        object.__setattr__(changed, field, "other")
        mixed = dataclasses.replace(old)
        object.__setattr__(mixed, group, changed)
        assert differences(old, mixed) == [f"{group}.{field}: {getattr(getattr(old, group), field)} → other"]


def test_a_run_s_config_is_read_back(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(preset("base"))), encoding="utf-8")
    assert read_config(path) == preset("base")
    assert math.isclose(read_config(path).generator.width_fraction, 1 / 3)


ADDED = {"objective": ("masked_positions", "rtd_special_tokens"), "optimizer": ("decay_norms_and_biases",)}


def test_a_run_older_than_a_setting_is_read_as_it_was(tmp_path):
    """It can be used and resumed under settings that do what was done then, and under no other."""
    values = to_json(preset("small"))
    for group, names in ADDED.items():
        for name in names:
            del values[group][name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    old = read_config(path)
    assert old == preset("small")
    assert differences(old, preset("small")) == []
    objective = dataclasses.replace(old.objective, masked_positions="with_replacement", rtd_special_tokens=False)
    optimizer = dataclasses.replace(old.optimizer, decay_norms_and_biases=True)
    assert differences(old, dataclasses.replace(old, objective=objective, optimizer=optimizer)) == [
        "objective.masked_positions: unique → with_replacement",
        "objective.rtd_special_tokens: True → False",
        "optimizer.decay_norms_and_biases: False → True",
    ]
    values["objective"]["masked_place"] = "unique"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match=r"unknown settings \['masked_place'\]"):
        read_config(path)


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}", "\x00", '{"name": NaN}'])
def test_a_damaged_config_is_one_sentence(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError):
        read_config(path)
    with pytest.raises(UserError, match="is not a run"):
        read_config(tmp_path / "nowhere" / "config.json")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = (", "is not a preset: SyntaxError"),
        ("x = 1", "defines no get_config"),
        ("def get_config(): return 3", "must return a PretrainConfig, not int"),
        ("def get_config(): return 1 / 0", "get_config.. failed"),
        ("import no_such_module", "is not a preset: ModuleNotFoundError"),
    ],
)
def test_a_file_that_is_no_preset_is_one_sentence(tmp_path, source, words):
    path = tmp_path / "mine.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        load_preset(path)
    assert "\n" not in str(caught.value)


def test_a_missing_preset_names_those_beside_it():
    with pytest.raises(UserError, match="holds base, large, small, small_plus_plus, tiny"):
        load_preset(CONFIGS / "huge.py")
