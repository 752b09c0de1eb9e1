"""Exported functions against the model they are from, in this process and in one that lacks the model's code."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from parity import TASKS, TINY, TINY_NETWORKS, random_params
from safetensors.numpy import load_file
from tiny_models import SPECIAL, make_rows, quick_jit
from tiny_models import TINY as TINY_PRESET

from electra_jax.errors import MachineError, UserError
from electra_jax.files import sha256_of
from electra_jax.interop.stablehlo import load_stablehlo
from electra_jax.interop.stablehlo_writer import write_stablehlo
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.networks import NetworksConfig
from electra_jax.text.wordpiece import WordPieceTokenizer

SHAPES = [(1, 5), (3, 40)]
OURS = NetworksConfig(
    discriminator=dataclasses.replace(TINY, **TINY_PRESET),
    generator=dataclasses.replace(TINY_NETWORKS.generator, **TINY_PRESET),
)
NETWORKS = {
    "paper": TINY_NETWORKS,
    "ours": OURS,
    "generator": NetworksConfig(generator=TINY),
    **{name: NetworksConfig(discriminator=TINY, task=task) for name, task in TASKS.items()},
}


@pytest.fixture(scope="module")
def tokenizer():
    words = [f"word{number}" for number in range(TINY.vocab_size - 5)]
    return WordPieceTokenizer(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *words], True, True, "test")


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory):
    """The paper's networks, exported; copy what a test changes."""
    folder = tmp_path_factory.mktemp("export") / "model"
    write_stablehlo(folder, TINY_NETWORKS, random_params(TINY_NETWORKS), tokenizer)
    return folder


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def of_model(networks, params, ids):
    """What the model itself gives, with the networks as they were trained."""
    model = Electra(networks, Kernels(unroll_layers=False))
    methods = {"embeddings": Electra.discriminator_hidden}
    if networks.discriminator is None:
        methods = {"embeddings": Electra.generator_hidden}
    elif networks.task is None:
        methods["discriminator"] = Electra.rtd_logits
    else:
        methods["task"] = Electra.task_logits

    @quick_jit
    def outputs(params, ids):
        inputs = create_inputs(ids, SPECIAL)
        return {name: model.apply({"params": params}, inputs, method=method) for name, method in methods.items()}

    found = outputs(params, ids)
    return {**found, "embeddings": found["embeddings"].reshape(*ids.shape, -1)}


@pytest.mark.parametrize("name", NETWORKS)
def test_functions_give_what_the_model_gives_on_every_shape(name, tokenizer, tmp_path):
    networks = NETWORKS[name]
    params = random_params(networks)
    write_stablehlo(tmp_path / "out", networks, params, tokenizer)
    loaded = load_stablehlo(tmp_path / "out")
    for rows, length in SHAPES:
        ids = make_rows(length, rows, length, TINY.vocab_size)
        outputs = of_model(networks, params, ids)
        assert loaded.functions.keys() == outputs.keys()
        for function, expected in outputs.items():
            found = getattr(loaded, function)(ids)
            assert found.shape == expected.shape
            assert expected.std() > 1e-2  # a thousand times what they may be apart
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
            stated = {"batch": rows, "length": length}
            shape = loaded.manifest["functions"][function]["gives"]["shape"]
            assert tuple(stated.get(size, size) for size in shape) == found.shape


def test_rotary_positions_reach_as_far_as_asked_and_learned_ones_no_further(tokenizer, tmp_path):
    networks = NetworksConfig(discriminator=OURS.discriminator)
    params, length = random_params(networks), 2 * TINY.max_position_embeddings
    write_stablehlo(tmp_path / "out", networks, params, tokenizer, longest=length)
    ids = make_rows(0, 2, length, TINY.vocab_size, examples=1, full=True)
    found = load_stablehlo(tmp_path / "out").discriminator(ids)
    np.testing.assert_allclose(found, of_model(networks, params, ids)["discriminator"], rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="has 40 positions"):
        write_stablehlo(tmp_path / "no", TINY_NETWORKS, random_params(TINY_NETWORKS), tokenizer, longest=length)


ELSEWHERE = """
import sys
from pathlib import Path
import numpy as np
from electra_jax.interop.stablehlo import load_stablehlo
folder = Path(sys.argv[1])
loaded = load_stablehlo(folder)
ids = np.load(folder / "ids.npy")
np.save(folder / "found.npy", loaded.discriminator(ids))
print(loaded.tokenizer.piece(5), *sorted(sys.modules))
"""


def test_a_process_without_the_models_code_gives_the_same(written, copied):
    ids = make_rows(0, 2, 12, TINY.vocab_size)
    np.save(copied / "ids.npy", ids)
    command = [sys.executable, "-c", ELSEWHERE, str(copied)]
    done = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    piece, *modules = done.stdout.split()
    assert piece == "word0"
    assert "jax" in modules
    strangers = ("flax", "optax", "orbax", "electra_jax.model", "electra_jax.training", "electra_jax.pretrain")
    assert not [name for name in modules if name.startswith(strangers)]
    np.testing.assert_array_equal(np.load(copied / "found.npy"), load_stablehlo(written).discriminator(ids))


def test_the_files_are_what_the_manifest_says(written):
    manifest = json.loads((written / "manifest.json").read_text())
    weights = load_file(written / "model.safetensors")
    assert manifest["special"] == SPECIAL._asdict()
    for name, entry in manifest["functions"].items():
        function = export.deserialize(bytearray((written / f"{name}.stablehlo").read_bytes()))
        assert function.platforms == tuple(manifest["platforms"]) == ("cpu", "cuda", "tpu")
        parameters = entry["takes"]["parameters"]
        assert [weights[key].shape for key in parameters] == [aval.shape for aval in function.in_avals[:-1]]
        assert function.module_kept_var_idx == tuple(range(len(parameters) + 1))
        assert not any(key.startswith("generator") for key in parameters)
    assert {key for entry in manifest["functions"].values() for key in entry["takes"]["parameters"]} == set(weights)


def change_manifest(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_function(folder, content):
    """Rubbish under its right checksum stands for what this JAX cannot read."""
    path = folder / "discriminator.stablehlo"
    path.write_bytes(content)
    checksums = json.loads((folder / "manifest.json").read_text())["sha256"]
    change_manifest(folder, sha256={**checksums, path.name: sha256_of(path)})


def replace_module(folder):
    """What an older JAX finds in the export of a newer one: a known envelope, an unknown StableHLO."""
    function = export.deserialize(bytearray((folder / "discriminator.stablehlo").read_bytes()))
    replace_function(folder, dataclasses.replace(function, mlir_module_serialized=b"rubbish").serialize())


def rename_parameter(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("discriminator_predictions/dense/bias", "discriminator_predictions/b"))


def change_tokenizer(folder):
    words = [f"other{number}" for number in range(TINY.vocab_size - 5)]
    other = WordPieceTokenizer(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *words], True, True, "test")
    other.save(folder / "tokenizer")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


FAULTS = {
    "no folder": (lambda f: shutil.rmtree(f), UserError, "is no exported model"),
    "truncated function": (lambda f: truncate(f / "embeddings.stablehlo"), MachineError, "embeddings.stablehlo is dam"),
    "truncated weights": (lambda f: truncate(f / "model.safetensors"), MachineError, "model.safetensors is damaged"),
    "a bit of the weights": (lambda f: flip(f / "model.safetensors"), MachineError, "its checksum is another"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), UserError, "model.safetensors cannot be opened"),
    "no function": (lambda f: (f / "embeddings.stablehlo").unlink(), UserError, "embeddings.stablehlo cannot be ope"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), UserError, "holds no tokenizer"),
    "other tokenizer": (change_tokenizer, UserError, "is not the tokenizer of this export"),
    "truncated manifest": (lambda f: truncate(f / "manifest.json"), MachineError, "manifest.json cannot be read"),
    "other manifest": (lambda f: (f / "manifest.json").write_text("[]"), UserError, "does not describe an exported"),
    "other version": (lambda f: change_manifest(f, version=2), UserError, "is of version 2, but .* reads 1"),
    "no checksums": (lambda f: change_manifest(f, sha256={}), MachineError, "manifest.json is damaged"),
    "no functions": (lambda f: change_manifest(f, functions=[]), MachineError, "manifest.json is damaged"),
    "unknown parameter": (rename_parameter, MachineError, "does not hold discriminator_predictions/b"),
    "unknown envelope": (lambda f: replace_function(f, b"rubbish" * 20), UserError, "was written by JAX .* cannot be"),
    "unknown StableHLO": (replace_module, UserError, "was written by JAX .* cannot be opened by"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_or_foreign_folder_is_one_sentence(name, copied):
    damage, error, sentence = FAULTS[name]
    damage(copied)
    with pytest.raises(error, match=sentence) as raised:
        load_stablehlo(copied)
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([1, 5, 2], r"not \[3\] of int64"),
        ([[1.0, 2.0]], "of float64"),
        ([[1, 5, 2], [1, 2]], "differ in length"),
        ([[]], r"not \[1, 0\]"),
        (np.ones((1, 41), np.int32), "have 41 tokens, but 40 is the most"),
    ],
)
def test_what_is_no_row_of_ids_is_one_sentence(written, ids, sentence):
    with pytest.raises(UserError, match=sentence):
        load_stablehlo(written).discriminator(ids)


def test_a_function_that_is_not_there_is_one_sentence(written):
    with pytest.raises(UserError, match="has no task, only discriminator, embeddings"):
        load_stablehlo(written).task([[1, 5, 2]])


def test_ids_of_any_integer_type_within_a_function_of_the_users(written):
    loaded = load_stablehlo(written)
    expected = loaded.discriminator([[1, 5, 2]])
    inside = jax.jit(lambda ids: jax.nn.sigmoid(loaded.discriminator(ids)))(jnp.array([[1, 5, 2]], jnp.uint16))
    np.testing.assert_allclose(inside, jax.nn.sigmoid(expected), rtol=1e-6)
    outside = np.asarray(loaded.discriminator(np.array([[1, TINY.vocab_size, 2]], np.uint16)))
    assert np.isnan(outside).all()
