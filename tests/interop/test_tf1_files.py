"""Checkpoints that TensorFlow wrote, imported; without it, test_tf1.py remains."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layouts import HEAD_SIZE, LAYOUTS, PUBLISHED, SMALL, UNTIED, assert_every_array_in_place, refused, vocabulary
from parity import CONFIGS, padded_rows, torch_inputs
from published import random_arrays, variables, write_checkpoints
from tiny_models import SPECIAL, assert_trees_equal

from electra_jax.cli import main
from electra_jax.files import sha256_of
from electra_jax.interop.portable import read_imported, write_imported
from electra_jax.interop.tf1 import QUIET, read_tf1
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.networks import networks_of
from electra_jax.presets import load_preset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"),
]
# The layouts that there are as files.
WRITTEN = ("tied", "untied", "discriminator alone", "no projection")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Iterator[dict[str, tuple[Path, dict[str, np.ndarray]]]]:
    """Tiny checkpoints as TensorFlow writes them, with what was written."""
    folder = tmp_path_factory.mktemp("tf1")
    arrays = [random_arrays(variables(**LAYOUTS[name]), seed) for seed, name in enumerate(WRITTEN)]
    places = [folder / name / "model.ckpt" for name in WRITTEN]
    prefixes = write_checkpoints(dict(zip(places, arrays, strict=True)))
    yield dict(zip(WRITTEN, zip(prefixes, arrays, strict=True), strict=True))
    shutil.rmtree(folder)


def test_the_command_imports_one(checkpoints, tmp_path, capsys):
    prefix, arrays = checkpoints["tied"]
    vocab = vocabulary(tmp_path / "vocab.txt", 61)
    args = ["import", "--format", "tf1", "--from", prefix.parent, "--vocab", vocab, "--out", tmp_path / "run"]
    assert main([*map(str, args), "--head-size", str(HEAD_SIZE)]) == 0
    assert "the embeddings are shared; wordpiece of 61 pieces, uncased" in capsys.readouterr().out
    model = read_imported(tmp_path / "run")
    assert_every_array_in_place(model.networks, model.params, LAYOUTS["tied"], arrays)
    other = vocabulary(tmp_path / "other.txt", 60)
    args = ["import", "--format", "tf1", "--from", prefix, "--vocab", other, "--out", tmp_path / "nothing"]
    assert main([*map(str, args), "--head-size", str(HEAD_SIZE)]) == 2
    assert "the tokenizer has 60 pieces" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", WRITTEN)
def test_what_tensorflow_wrote_is_imported_and_kept(name, checkpoints, tmp_path):
    prefix, arrays = checkpoints[name]
    model = read_tf1(prefix.parent, vocabulary(tmp_path / "vocab.txt", 61), head_size=HEAD_SIZE)
    assert_every_array_in_place(model.networks, model.params, LAYOUTS[name], arrays)
    files = [Path(f"{prefix}{end}") for end in (".index", ".data-00000-of-00001")]
    assert model.source == {
        "format": "tf1",
        "checkpoint": str(prefix),
        "global_step": 7,
        "sha256": {str(file): sha256_of(file) for file in files},
    }
    write_imported(tmp_path / "kept", model)
    again = read_imported(tmp_path / "kept")
    assert_trees_equal(again.params, model.params)
    assert (again.networks, again.source) == (model.networks, model.source)
    assert again.tokenizer.fingerprint == model.tokenizer.fingerprint
    assert json.loads((tmp_path / "kept" / "model.json").read_text())["source"]["global_step"] == 7


def test_casing_is_the_callers(checkpoints, tmp_path):
    prefix, _ = checkpoints["tied"]
    words = vocabulary(tmp_path / "vocab.txt", 61)
    cased = read_tf1(prefix, words, lower_case=False, head_size=HEAD_SIZE).tokenizer.settings
    assert (cased["lower_case"], cased["strip_accents"]) == (False, False)
    mixed = read_tf1(prefix, words, strip_accents=False, head_size=HEAD_SIZE).tokenizer.settings
    assert (mixed["lower_case"], mixed["strip_accents"]) == (True, False)


@pytest.mark.parametrize("network", ["discriminator", "generator"])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_logits_are_those_of_transformers_with_the_same_weights(name, network, checkpoints, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    prefix, arrays = checkpoints[name]
    size = LAYOUTS[name][network]
    config = transformers.ElectraConfig(
        vocab_size=size.vocab,
        embedding_size=size.embedding,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // HEAD_SIZE,
        intermediate_size=size.ffn,
        max_position_embeddings=size.positions,
        attn_implementation="eager",
    )
    cls = {"discriminator": transformers.ElectraForPreTraining, "generator": transformers.ElectraForMaskedLM}[network]
    theirs = cls(config).eval()
    state = {}
    for variable in variables(**{network: size}):
        key = re.sub(r"^(electra|generator)/", "electra/", variable).replace("layer_", "layer.").replace("/", ".")
        key = key.replace("dense_1.", "dense_prediction.").replace("predictions.output_bias", "lm_head.bias")
        key = re.sub("(kernel|gamma|embeddings$)", lambda m: "weight" if m[0] != "embeddings" else "embeddings.weight",
                     key).replace("beta", "bias")  # fmt: skip
        value = arrays[variable]
        state[key] = torch.tensor(value.T.copy() if variable.endswith("kernel") else value)
    report = theirs.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    tied = {"generator_lm_head.weight"} if network == "generator" else set()
    assert set(report.missing_keys) <= tied | {"electra.embeddings.position_ids", "electra.embeddings.token_type_ids"}
    if tied:
        theirs.tie_weights()
    inputs = create_inputs(jnp.asarray(padded_rows(3, 4, 32, size.vocab)), SPECIAL)
    with torch.no_grad():
        expected = theirs(**torch_inputs(inputs)).logits.numpy()
    model = read_tf1(prefix, vocabulary(tmp_path / "vocab.txt", 61), head_size=HEAD_SIZE)
    module = Electra(model.networks, Kernels(unroll_layers=False))
    every = jnp.broadcast_to(jnp.arange(32), (4, 32))
    rest = {"discriminator": (Electra.rtd_logits,), "generator": (Electra.mlm_logits, every)}[network]
    found = jax.jit(lambda params: module.apply({"params": params}, inputs, *rest[1:], method=rest[0]))(model.params)
    real = np.asarray(inputs.attention_mask)
    assert expected.std() > 0.1
    assert np.abs(np.asarray(found) - expected)[real].max() <= 2e-5


def test_published_shapes_of_small_with_a_generator_of_full_width(tmp_path):
    """Small++ as released, and its twin whose generator has tables of its own, all at their true sizes."""
    words = vocabulary(tmp_path / "vocab.txt", 30522)
    layouts = {
        "released": {"discriminator": SMALL, "generator": PUBLISHED["small++"][1]},
        "untied": {"discriminator": SMALL, "generator": UNTIED},
    }
    arrays = {name: random_arrays(variables(**layout)) for name, layout in layouts.items()}
    given = {tmp_path / name / "electra_small": arrays[name] for name in layouts}
    prefixes = write_checkpoints(given, slots=False, step=4_000_000)
    for (name, layout), prefix in zip(layouts.items(), prefixes, strict=True):
        model = read_tf1(prefix.parent, words)
        assert model.source["global_step"] == 4_000_000
        assert_every_array_in_place(model.networks, model.params, layout, arrays[name])
        heads = [network.num_attention_heads for network in (model.networks.discriminator, model.networks.generator)]
        assert heads == [4, 4]
        assert model.networks.generator.embedding_size == layout["generator"].embedding
        assert model.networks.sharing == ("all" if name == "released" else "none")
        shutil.rmtree(prefix.parent)


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_published_shapes_of_the_other_sizes(name, tmp_path):
    """At their true widths; of large two layers stand for twenty-four, which are a gigabyte and a half."""
    sizes = [size._replace(layers=min(size.layers, 2)) if name == "large" else size for size in PUBLISHED[name]]
    layout = dict(zip(("discriminator", "generator"), sizes, strict=True))
    arrays = random_arrays(variables(**layout))
    (prefix,) = write_checkpoints({tmp_path / f"electra_{name}": arrays}, slots=name == "small", step=1_000_000)
    model = read_tf1(prefix, vocabulary(tmp_path / "vocab.txt", 30522))
    assert_every_array_in_place(model.networks, model.params, layout, arrays)
    wanted = networks_of(load_preset(CONFIGS / f"{name}.py"))
    if name == "large":
        two = {kind: dataclasses.replace(own, num_hidden_layers=2) for kind, own in wanted.each.items()}
        wanted = dataclasses.replace(wanted, **two)
    assert model.networks == wanted
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: os.truncate(f"{p}.data-00000-of-00001", 2000), r"cannot be read \("),
        (lambda p: Path(f"{p}.data-00000-of-00001").unlink(), r"cannot be read \(.*data-00000-of-00001"),
        (lambda p: os.truncate(f"{p}.index", 300), r"cannot be read \("),
        (lambda p: Path(f"{p}.index").unlink(), "holds no TensorFlow checkpoint|no model.ckpt-7.index beside it"),
        (lambda p: Path(f"{p}.index").write_bytes(b""), r"cannot be read \("),
        (lambda p: flip(Path(f"{p}.data-00000-of-00001")), r"cannot be read \(.*[Cc]hecksum"),
    ],
    ids=["cut data", "no data", "cut index", "no index", "empty index", "another bit"],
)
def test_damaged_files_are_one_sentence(damage, sentence, checkpoints, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoints["tied"][0].parent, folder)
    damage(folder / "model.ckpt-7")
    before = sorted(tmp_path.rglob("*"))
    found = refused(read_tf1, folder, vocabulary(tmp_path.parent / "vocab.txt", 61), True, None, HEAD_SIZE)
    assert re.search(sentence, found), found
    assert str(folder) in found
    assert sorted(tmp_path.rglob("*")) == before


def flip(path: Path) -> None:
    """Changes a bit of a parameter, where Adam's slots are most of the file."""
    content = bytearray(path.read_bytes())
    at = content.index(random_arrays(variables(**LAYOUTS["tied"]))["generator_predictions/output_bias"].tobytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_vocabulary_of_another_size_is_refused(checkpoints, tmp_path):
    prefix, _ = checkpoints["tied"]
    sentence = refused(read_tf1, prefix, vocabulary(tmp_path / "vocab.txt", 60), True, None, HEAD_SIZE)
    assert sentence.startswith(f"{prefix}: the tokenizer has 60 pieces")


QUIETLY = """
import os, sys
import jax, jax.numpy as jnp
from pathlib import Path
from electra_jax.interop.tf1 import read_tf1
assert "tensorflow" not in sys.modules
before = dict(os.environ)
model = read_tf1(Path(sys.argv[1]), Path(sys.argv[2]), head_size=6)
assert dict(os.environ) == before
from tensorflow.python.eager import context
assert context.context_safe() is None, "TensorFlow has set up its devices"
assert float(jax.jit(lambda x: x @ x)(jnp.ones((3, 3))).sum()) == 27
"""


def test_tensorflow_is_silent_and_leaves_devices_and_environment_alone(checkpoints, tmp_path):
    words = vocabulary(tmp_path / "vocab.txt", 61)
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    command = [sys.executable, "-c", QUIETLY, str(checkpoints["tied"][0]), str(words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
