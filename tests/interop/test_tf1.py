"""Published TensorFlow 1 checkpoints: their names and sizes with nothing installed, their files with TensorFlow."""

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
from parity import padded_rows, preset, torch_inputs
from published import LAYER, Size, place_of, random_arrays, variables, write_checkpoints
from tiny_models import SPECIAL, assert_trees_equal

import electra_jax
from electra_jax.config import ModelConfig
from electra_jax.errors import UserError
from electra_jax.files import sha256_of
from electra_jax.interop.portable import read_imported, write_imported
from electra_jax.interop.tf1 import (
    QUIET,
    Checkpoint,
    build_networks,
    find_prefix,
    find_scopes,
    import_tensorflow,
    infer_networks,
    read_tf1,
)
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.model.sharing import join
from electra_jax.networks import networks_of

# Not two sizes alike.
DISCRIMINATOR = Size("electra", "electra", 61, 20, 24, 3, 44, 40)
GENERATOR = Size("generator", "electra", 61, 20, 12, 2, 28, 40)
WIDE = {"scope": "electra", "tables": "electra", "vocab": 30522}
SMALL = Size(embedding=128, hidden=256, layers=12, ffn=1024, **WIDE)
BASE = Size(embedding=768, hidden=768, layers=12, ffn=3072, **WIDE)
LARGE = Size(embedding=1024, hidden=1024, layers=24, ffn=4096, **WIDE)
PUBLISHED = {
    "small": (SMALL, SMALL._replace(scope="generator", hidden=64, ffn=256)),
    "small++": (SMALL, SMALL._replace(scope="generator")),
    "base": (BASE, BASE._replace(scope="generator", hidden=256, ffn=1024)),
    "large": (LARGE, LARGE._replace(scope="generator", hidden=256, ffn=1024)),
}
# Untied, the published code makes the generator's tables as wide as its layers.
UNTIED = SMALL._replace(scope="generator", tables="generator", embedding=256)
LAYOUTS = {
    "tied": {"discriminator": DISCRIMINATOR, "generator": GENERATOR},
    "as wide": {"discriminator": DISCRIMINATOR, "generator": DISCRIMINATOR._replace(scope="generator")},
    "untied": {
        "discriminator": DISCRIMINATOR,
        "generator": GENERATOR._replace(tables="generator", embedding=12),
    },
    "untied, with a projection": {
        "discriminator": DISCRIMINATOR,
        "generator": GENERATOR._replace(tables="generator", embedding=18),
    },
    "one encoder for both": {
        "discriminator": DISCRIMINATOR,
        "generator": DISCRIMINATOR,
    },
    "no projection": {
        "discriminator": DISCRIMINATOR._replace(embedding=24),
        "generator": GENERATOR._replace(embedding=24),
    },
    "discriminator alone": {"discriminator": DISCRIMINATOR},
    "generator alone": {"generator": GENERATOR},
    "untied generator alone": {"generator": GENERATOR._replace(tables="generator")},
    "masked language model": {"generator": DISCRIMINATOR},
}
HEAD_SIZE = 6


def held(arrays: dict[str, np.ndarray]) -> Checkpoint:
    return Checkpoint({name: value.shape for name, value in arrays.items()}, arrays.__getitem__)


def with_leftovers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    slots = {f"{name}/{slot}": value for name, value in arrays.items() for slot in ("adam_m", "adam_v")}
    scalars = ("global_step", "generator_predictions/temperature", "beta1_power")
    return {**arrays, **slots, **{name: np.ones(()) for name in scalars}}


def assert_every_array_in_place(networks, params, layout, arrays):
    """Each network reads each of its variables, and the parameters hold nothing else."""
    places = {}
    for network, size in layout.items():
        own_tables = network == "discriminator" and networks.generator is not None and networks.sharing != "all"
        embeddings = "discriminator_embeddings" if own_tables else "embeddings"
        for name in variables(**{network: size}):
            place = places[network, name] = place_of(params, network, size, embeddings, name)
            assert place.dtype == np.float32
            np.testing.assert_array_equal(place, arrays[name], err_msg=name)
    shared = {}
    for (network, name), place in places.items():
        is_table = "/embeddings/" in name and networks.sharing == "all"
        shared[name if is_table else (network, name)] = place.size
    assert sum(shared.values()) == sum(leaf.size for leaf in jax.tree.leaves(params))


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


def refused(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


@pytest.mark.parametrize(("head_size", "sentence"), [(0, "at least 1, not 0"), (5, "26 cannot be divided among 5")])
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


def vocabulary(path: Path, pieces: int) -> Path:
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    path.write_text("\n".join([*special, *(f"w{number}" for number in range(pieces - len(special)))]) + "\n")
    return path


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


needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
# Two of the layouts as real files.
WRITTEN = ("tied", "untied", "discriminator alone")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Iterator[dict[str, tuple[Path, dict[str, np.ndarray]]]]:
    """Tiny checkpoints as TensorFlow writes them, with what was written."""
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("tf1")
    arrays = [random_arrays(variables(**LAYOUTS[name]), seed) for seed, name in enumerate(WRITTEN)]
    places = [folder / name / "model.ckpt" for name in WRITTEN]
    prefixes = write_checkpoints(dict(zip(places, arrays, strict=True)))
    yield dict(zip(WRITTEN, zip(prefixes, arrays, strict=True), strict=True))
    shutil.rmtree(folder)


@needs_tensorflow
@pytest.mark.slow
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


@needs_tensorflow
@pytest.mark.slow
def test_casing_is_the_callers(checkpoints, tmp_path):
    prefix, _ = checkpoints["tied"]
    words = vocabulary(tmp_path / "vocab.txt", 61)
    cased = read_tf1(prefix, words, lower_case=False, head_size=HEAD_SIZE).tokenizer.settings
    assert (cased["lower_case"], cased["strip_accents"]) == (False, False)
    mixed = read_tf1(prefix, words, strip_accents=False, head_size=HEAD_SIZE).tokenizer.settings
    assert (mixed["lower_case"], mixed["strip_accents"]) == (True, False)


@needs_tensorflow
@pytest.mark.slow
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


@needs_tensorflow
@pytest.mark.slow
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


@needs_tensorflow
@pytest.mark.slow
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


@needs_tensorflow
@pytest.mark.slow
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


@needs_tensorflow
@pytest.mark.slow
def test_tensorflow_is_silent_and_leaves_devices_and_environment_alone(checkpoints, tmp_path):
    words = vocabulary(tmp_path / "vocab.txt", 61)
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    command = [sys.executable, "-c", QUIETLY, str(checkpoints["tied"][0]), str(words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_level_of_logging_that_the_user_set_stays(tmp_path, monkeypatch):
    """What TensorFlow would see while it is loaded, told by a file in its place."""
    (tmp_path / "tensorflow.py").write_text("import os\nSEEN = dict(os.environ)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for level, seen in ((None, "3"), ("0", "0")):
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        if level is not None:
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
        before = dict(os.environ)
        assert import_tensorflow().SEEN["TF_CPP_MIN_LOG_LEVEL"] == seen
        assert dict(os.environ) == before
