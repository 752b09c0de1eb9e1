"""The names and sizes of published TensorFlow 1 checkpoints, with nothing installed; for files, test_tf1_files.py."""

import dataclasses
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from layouts import (
    DISCRIMINATOR,
    GENERATOR,
    HEAD_SIZE,
    LAYOUTS,
    PUBLISHED,
    assert_every_array_in_place,
    refused,
    vocabulary,
)
from parity import preset
from published import LAYER, random_arrays, variables

import electra_jax
from electra_jax.config import ModelConfig
from electra_jax.interop.tf1 import (
    Checkpoint,
    build_networks,
    find_prefix,
    find_scopes,
    import_tensorflow,
    infer_networks,
    read_tf1,
)
from electra_jax.model.sharing import join
from electra_jax.networks import networks_of


def held(arrays: dict[str, np.ndarray]) -> Checkpoint:
    return Checkpoint({name: value.shape for name, value in arrays.items()}, arrays.__getitem__)


def with_leftovers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    slots = {f"{name}/{slot}": value for name, value in arrays.items() for slot in ("adam_m", "adam_v")}
    scalars = ("global_step", "generator_predictions/temperature", "beta1_power")
    return {**arrays, **slots, **{name: np.ones(()) for name in scalars}}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_variable_goes_to_its_place(name):
    layout = LAYOUTS[name]
    arrays = random_arrays(variables(**layout))
    networks, found = build_networks(held(with_leftovers(arrays)), name, HEAD_SIZE)
    assert set(found) == set(layout)
    assert_every_array_in_place(networks, join(found, networks), layout, arrays)
    assert networks.sharing == ("none" if name in ("untied", "untied, with a projection") else "all")


def test_names_are_spelled_as_published():
    names = variables(discriminator=DISCRIMINATOR, generator=GENERATOR)
    layer = "electra/encoder/layer_2/"
    assert {n for n in names if not re.search("layer_", n)} == {
        "electra/embeddings/word_embeddings",
        "electra/embeddings/position_embeddings",
        "electra/embeddings/token_type_embeddings",
        "electra/embeddings/LayerNorm/gamma",
        "electra/embeddings/LayerNorm/beta",
        "electra/embeddings_project/kernel",
        "electra/embeddings_project/bias",
        "generator/embeddings_project/kernel",
        "generator/embeddings_project/bias",
        "discriminator_predictions/dense/kernel",
        "discriminator_predictions/dense/bias",
        "discriminator_predictions/dense_1/kernel",
        "discriminator_predictions/dense_1/bias",
        "generator_predictions/dense/kernel",
        "generator_predictions/dense/bias",
        "generator_predictions/LayerNorm/gamma",
        "generator_predictions/LayerNorm/beta",
        "generator_predictions/output_bias",
    }
    assert {n.removeprefix(layer) for n in names if n.startswith(layer)} == LAYER.keys()


@pytest.mark.parametrize(
    ("name", "variable_count", "discriminator", "generator"),
    [
        ("small", 402, 13_549_057, 4_620_026),
        ("small++", 402, 13_549_057, 13_546_682),
        ("base", 400, 109_483_009, 33_740_602),
        ("large", 784, 335_142_913, 51_295_290),
    ],
)
def test_published_sizes_are_inferred(name, variable_count, discriminator, generator):
    """From shapes alone: the presets' networks, and as many parameters as the published ones have."""
    shapes = variables(discriminator=PUBLISHED[name][0], generator=PUBLISHED[name][1])
    assert len(shapes) == variable_count
    counts = {
        network: sum(int(np.prod(shapes[variable])) for variable in variables(**{network: size}))
        for network, size in zip(("discriminator", "generator"), PUBLISHED[name], strict=True)
    }
    assert counts == {"discriminator": discriminator, "generator": generator}
    networks = infer_networks(shapes, find_scopes(shapes, name), name)
    config = preset(name.removesuffix("++"))
    if name == "small++":
        config = dataclasses.replace(
            config, generator=dataclasses.replace(config.generator, width_fraction=1.0, num_attention_heads=None)
        )
    assert networks == networks_of(config)
    # A broadcast zero for each array: the leaves are counted and shaped at no cost.
    checkpoint = Checkpoint(shapes, lambda variable: np.broadcast_to(np.float32(0), shapes[variable]))
    if name.startswith("small"):
        assert build_networks(checkpoint, name)[0] == networks


def test_dropout_and_epsilon_are_the_published_ones():
    shapes = variables(**LAYOUTS["tied"])
    networks = infer_networks(shapes, find_scopes(shapes, "x"), "x", HEAD_SIZE)
    assert networks.discriminator == ModelConfig(
        vocab_size=61,
        embedding_size=20,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=44,
        max_position_embeddings=40,
        type_vocab_size=2,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        layer_norm_eps=1e-12,
        embedding_sharing="all",
    )
    assert networks.generator.num_attention_heads == 2
    narrow = infer_networks(shapes, find_scopes(shapes, "x"), "x")
    assert narrow.discriminator.num_attention_heads == narrow.generator.num_attention_heads == 1


def test_what_does_not_fit_is_listed_in_one_sentence():
    arrays = random_arrays(variables(**LAYOUTS["tied"]))
    del arrays["electra/encoder/layer_1/output/dense/bias"], arrays["electra/embeddings/LayerNorm/gamma"]
    arrays["generator_predictions/output_bias"] = np.zeros(60, np.float32)
    arrays["electra/encoder/layer_2/extra/kernel"] = np.zeros((2, 2), np.float32)
    arrays["task_specific/mnli/logits/kernel"] = np.zeros((24, 3), np.float32)
    sentence = refused(build_networks, held(arrays), "models/a", HEAD_SIZE)
    assert sentence == (
        "models/a does not hold the tensors that its sizes describe (missing there: "
        "electra/embeddings/LayerNorm/gamma, electra/encoder/layer_1/output/dense/bias; unknown here: "
        "electra/encoder/layer_2/extra/kernel, task_specific/mnli/logits/kernel; of another shape: "
        "generator_predictions/output_bias is [60] there and [61] here)"
    )


@pytest.mark.parametrize(
    ("remove", "add", "sentence"),
    [
        ("^electra/encoder/layer_1/", [], "missing there: electra/encoder/layer_1/.* and 12 more"),
        ("^discriminator_predictions/", [], "missing there: discriminator_predictions/dense/bias"),
        ("^generator_predictions/", [], "missing there: generator_predictions/LayerNorm/beta"),
        ("/embeddings_project/", [], "missing there: .*electra/embeddings_project/bias, .*generator/embeddings_pro"),
        ("^$", ["generator/embeddings/word_embeddings"], "no matrix generator/embeddings/position_embeddings"),
        (
            "^generator",
            ["generator_ltr/encoder/layer_0/output/dense/kernel"],
            "unknown here: generator_ltr/enc",
        ),  # Electric
        ("layer_0/attention/self/query/kernel", [], "no matrix electra/encoder/layer_0/attention/self/query/kernel"),
        ("^electra/embeddings/word", [], "no matrix electra/embeddings/word_embeddings"),
        ("^.*$", ["bert/embeddings/word_embeddings"], "is a BERT checkpoint"),
        ("^.*$", ["model/layer/kernel/.ATTRIBUTES/VARIABLE_VALUE"], "no ELECTRA checkpoint, for it holds model:"),
        ("^.*$", [], "no ELECTRA checkpoint, for it holds nothing at all"),
        ("^electra/enc|^gen|^dis", ["task_specific/x"], "no ELECTRA checkpoint, for it holds electra, task_specific"),
        ("^gen|^dis", ["task_specific/x"], "missing there: discriminator_pred.* unknown here: task_specific/x"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(remove, add, sentence):
    arrays = random_arrays(variables(**LAYOUTS["tied"]))
    arrays = {name: value for name, value in arrays.items() if not re.search(remove, name)}
    arrays |= {name: np.zeros((61, 20), np.float32) for name in add}
    found = refused(build_networks, held(arrays), "models/a", HEAD_SIZE)
    assert found.startswith("models/a")
    assert re.search(sentence, found), found


@pytest.mark.parametrize(
    ("head_size", "sentence"), [(0, "at least 1, not 0"), (5, "heads of 5 do not divide 26 units")]
)
def test_a_head_size_that_cannot_be_is_refused(head_size, sentence):
    arrays = random_arrays(variables(discriminator=DISCRIMINATOR._replace(hidden=26)))
    assert sentence in refused(build_networks, held(arrays), "a", head_size)


def test_a_checkpoint_is_found_by_folder_prefix_and_file(tmp_path):
    for name in ("model.ckpt-10", "model.ckpt-9"):
        for end in ("index", "meta", "data-00000-of-00001"):
            (tmp_path / f"{name}.{end}").touch()
    for named in ("model.ckpt-9", "model.ckpt-9.index", "model.ckpt-9.data-00000-of-00001", "model.ckpt-9.meta"):
        assert find_prefix(tmp_path / named) == tmp_path / "model.ckpt-9"
    assert refused(find_prefix, tmp_path) == (
        f"{tmp_path} holds several checkpoints: name one of model.ckpt-10, model.ckpt-9 itself"
    )
    state = tmp_path / "checkpoint"
    for said in ("model.ckpt-9", "/elsewhere/run/model.ckpt-9"):
        state.write_text(f'model_checkpoint_path: "{said}"\nall_model_checkpoint_paths: "model.ckpt-10"\n')
        assert find_prefix(tmp_path) == find_prefix(state) == tmp_path / "model.ckpt-9"
    state.write_text('model_checkpoint_path: "model.ckpt-8"\n')
    assert "there is no model.ckpt-8.index beside it" in refused(find_prefix, tmp_path)
    state.write_text(r'model_checkpoint_path: "m\303\251"')
    (tmp_path / "mé.index").touch()
    assert find_prefix(tmp_path) == tmp_path / "mé"
    for damaged in (b"", b"\xff\xfe", b"model_checkpoint_path: 3"):
        state.write_bytes(damaged)
        assert "does not say which checkpoint is the newest" in refused(find_prefix, tmp_path)


def test_a_folder_with_one_checkpoint_needs_no_state(tmp_path):
    assert f"{tmp_path} holds no TensorFlow checkpoint" in refused(find_prefix, tmp_path)
    (tmp_path / "electra_small.index").touch()
    assert find_prefix(tmp_path) == tmp_path / "electra_small"
    for absent in ("base", "base.index", "away/model.ckpt-1"):
        assert "is no TensorFlow checkpoint, for there is no" in refused(find_prefix, tmp_path / absent)


def test_without_tensorflow_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "model.index").touch()
    before = sorted(tmp_path.iterdir())
    sentence = refused(read_tf1, tmp_path, vocabulary(tmp_path.parent / "vocab.txt", 61))
    assert 'pip install -e ".[tf]"' in sentence
    assert sorted(tmp_path.iterdir()) == before


def test_no_other_file_imports_tensorflow():
    root = Path(electra_jax.__file__).parent
    importing = re.compile(r"^( *)(?:import|from) tensorflow\b", re.MULTILINE)
    found = {path.name: importing.findall(path.read_text("utf-8")) for path in root.rglob("*.py")}
    assert {name: indents for name, indents in found.items() if indents} == {"tf1.py": [" " * 12]}


def test_a_level_of_logging_that_the_user_set_stays(tmp_path, monkeypatch):
    """What TensorFlow would see while it is loaded, told by a file in its place."""
    (tmp_path / "tensorflow.py").write_text("import os\nSEEN = dict(os.environ)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # that what is imported here does not stay
    for level, seen in ((None, "3"), ("0", "0")):
        del sys.modules["tensorflow"]
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        if level is not None:
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
        before = dict(os.environ)
        assert import_tensorflow().SEEN["TF_CPP_MIN_LOG_LEVEL"] == seen
        assert dict(os.environ) == before
