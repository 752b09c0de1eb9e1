"""Hugging Face folders there and back, and what is wrong with those that cannot be read."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import LABELS, TASKS, TINY, TINY_NETWORKS, random_params
from safetensors.numpy import load_file, save_file
from tiny_models import assert_trees_equal, quick_jit

import electra_jax
from electra_jax.errors import UserError
from electra_jax.interop.export import export_huggingface
from electra_jax.interop.huggingface import CONFIG, WEIGHTS, read_folder
from electra_jax.interop.model_card import Facts
from electra_jax.interop.portable import read_huggingface, read_imported, write_imported
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.model.sharing import join, separate
from electra_jax.networks import NetworksConfig


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in load_file(folder / WEIGHTS).items()}


@pytest.fixture
def folder(folders, tmp_path):
    """A discriminator's folder, to be changed."""
    return Path(shutil.copytree(folders.discriminator, tmp_path / "discriminator"))


def change(folder: Path, **settings: object) -> None:
    values = json.loads((folder / CONFIG).read_text())
    values = {**values, **settings}
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def refused(folder: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        read_huggingface(folder, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_export_then_import_gives_the_same_parameters_and_files(folders, tiny_tokenizer, tmp_path):
    found = read_huggingface(folders.discriminator, folders.generator)
    assert found.networks == TINY_NETWORKS
    assert_trees_equal(found.params, random_params(TINY_NETWORKS))
    assert found.tokenizer.fingerprint == tiny_tokenizer.fingerprint
    export_huggingface(tmp_path / "again", *found[:3], Facts(0))
    for name, first in (("discriminator", folders.discriminator), ("generator", folders.generator)):
        again = tmp_path / "again" / name
        assert bytes_of(again) == bytes_of(first)
        assert (again / CONFIG).read_bytes() == (first / CONFIG).read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuned_models_keep_their_head_and_labels(task, folders, tmp_path):
    found = read_huggingface(folders.tasks[task])
    assert found.networks == NetworksConfig(discriminator=TINY, task=TASKS[task])
    export_huggingface(tmp_path / "again", *found[:3], Facts(0))
    assert bytes_of(tmp_path / "again") == bytes_of(folders.tasks[task])
    if task != "question_answering":
        assert json.loads((tmp_path / "again" / CONFIG).read_text())["id2label"] == dict(
            zip("012", LABELS, strict=True)
        )


@pytest.mark.parametrize("sharing", ["none", "token", "all"])
def test_an_import_finds_out_what_is_shared(sharing, tiny_tokenizer, tmp_path):
    networks = with_sharing(sharing)
    params = random_params(networks)
    folders = export_huggingface(tmp_path / "out", networks, params, tiny_tokenizer, Facts(0))
    found = read_huggingface(*folders)
    assert found.networks.sharing == sharing
    assert_trees_equal(found.params, params)


def with_sharing(sharing: str) -> NetworksConfig:
    return NetworksConfig(
        discriminator=dataclasses.replace(TINY_NETWORKS.discriminator, embedding_sharing=sharing),
        generator=dataclasses.replace(TINY_NETWORKS.generator, embedding_sharing=sharing),
    )


def test_a_generator_may_have_embeddings_of_its_own_size(tiny_tokenizer, tmp_path):
    networks = with_sharing("none")
    own = dataclasses.replace(networks.generator, embedding_size=networks.generator.hidden_size)
    networks = dataclasses.replace(networks, generator=own)
    params = random_params(networks)
    assert "embeddings_project" not in params["generator_encoder"]
    found = read_huggingface(*export_huggingface(tmp_path / "out", networks, params, tiny_tokenizer, Facts(0)))
    assert found.networks == networks
    assert_trees_equal(found.params, params)


def test_tables_of_gdes_are_merged(tiny_tokenizer, tmp_path):
    networks = with_sharing("gdes")
    params = random_params(networks)
    folder, _ = export_huggingface(tmp_path / "out", networks, params, tiny_tokenizer, Facts(0))
    given, own = params["embeddings"], params["discriminator_embeddings"]
    tensors = load_file(folder / WEIGHTS)
    for table in ("word_embeddings", "position_embeddings"):
        np.testing.assert_array_equal(tensors[f"electra.embeddings.{table}.weight"], given[table] + own[table])
    types = tensors["electra.embeddings.token_type_embeddings.weight"]
    np.testing.assert_array_equal(types, own["token_type_embeddings"])


@pytest.mark.parametrize("sharing", ["none", "token", "all", "gdes"])
def test_networks_come_apart_and_together(sharing):
    networks = with_sharing(sharing)
    params = random_params(networks)
    again = join(separate(params, networks), networks)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        # A difference of GDES is a sum that is taken apart again: exact to rounding.
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-6 if sharing == "gdes" else 0)


def test_an_imported_model_is_kept_whole(folders, tmp_path):
    model = read_huggingface(folders.discriminator, folders.generator)
    write_imported(tmp_path / "run", model)
    again = read_imported(tmp_path / "run")
    assert again.networks == model.networks
    assert again.source == model.source
    assert again.tokenizer.fingerprint == model.tokenizer.fingerprint
    assert_trees_equal(again.params, model.params)
    with pytest.raises(UserError, match="exists already"):
        write_imported(tmp_path / "run", model)


def test_an_imported_model_and_its_folder_answer_alike(folders, tmp_path):
    write_imported(tmp_path / "run", read_huggingface(folders.discriminator, folders.generator))
    imported = electra_jax.load(tmp_path / "run")
    direct = electra_jax.load(folders.discriminator, generator=folders.generator)
    text = "the end of a day."
    assert imported.detect([text]) == direct.detect([text])
    assert imported.corrupt(text, 3) == direct.corrupt(text, 3)
    assert imported.fill_mask("the [MASK].") == direct.fill_mask("the [MASK].")
    alone = electra_jax.load(folders.discriminator)
    assert alone.detect([text]) == direct.detect([text])
    with pytest.raises(UserError, match="fill-mask asks a generator, and this model came without one"):
        alone.fill_mask("the [MASK].")
    generator = electra_jax.load(folders.generator)
    assert generator.fill_mask("the [MASK].") == direct.fill_mask("the [MASK].")
    with pytest.raises(UserError, match="detect asks a discriminator, and this model is a generator alone"):
        generator.detect([text])
    tuned = electra_jax.load(folders.tasks["token_classification"])
    with pytest.raises(UserError, match="fine-tuned for token_classification"):
        tuned.detect([text])


def test_half_precision_files_are_read_as_float32(folder):
    import ml_dtypes

    tensors = load_file(folder / WEIGHTS)
    save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}, folder / WEIGHTS)
    _, network = read_folder(folder)
    words = network.embeddings["word_embeddings"]
    assert words.dtype == np.float32
    np.testing.assert_allclose(words, tensors["electra.embeddings.word_embeddings.weight"], rtol=0.01)


def test_weights_in_several_files(folder, folders):
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:20], "model-2.safetensors": names[20:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_trees_equal(read_folder(folder)[1].encoder, read_folder(folders.discriminator)[1].encoder)
    (folder / "model-2.safetensors").unlink()
    assert "model-2.safetensors cannot be opened" in refused(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret"}}))
    assert "cannot be read" in refused(folder)


def test_constants_and_a_tied_head_in_an_older_file_are_known(folders, tmp_path):
    folder = Path(shutil.copytree(folders.generator, tmp_path / "generator"))
    tensors = load_file(folder / WEIGHTS)
    words = tensors["electra.embeddings.word_embeddings.weight"]
    extra = {"electra.embeddings.position_ids": np.arange(40)[None], "generator_lm_head.weight": words}
    save_file({**tensors, **extra}, folder / WEIGHTS)
    assert_trees_equal(tuple(read_folder(folder)[1]), tuple(read_folder(folders.generator)[1]))
    save_file({**tensors, "generator_lm_head.weight": words + 1}, folder / WEIGHTS)
    assert "generator_lm_head.weight differs from the word embeddings" in refused(folder)


def test_a_generator_s_file_may_name_its_one_table_by_the_head(folders, tmp_path):
    folder = Path(shutil.copytree(folders.generator, tmp_path / "generator"))
    tensors = load_file(folder / WEIGHTS)
    tensors["generator_lm_head.weight"] = tensors.pop("electra.embeddings.word_embeddings.weight")
    save_file(tensors, folder / WEIGHTS)
    assert_trees_equal(tuple(read_folder(folder)[1]), tuple(read_folder(folders.generator)[1]))


def test_networks_of_another_eps_share_no_layer_norm(folders, folder, tmp_path):
    """Equal tables to the bit: as one group, one of the two would compute with the other's eps."""
    change(folder, layer_norm_eps=1e-3)
    found = read_huggingface(folder, folders.generator)
    assert found.networks.sharing == "token"
    export_huggingface(tmp_path / "out", *found[:3], Facts(0))
    written = (tmp_path / "out" / name / CONFIG for name in ("discriminator", "generator"))
    epsilons = [json.loads(path.read_text())["layer_norm_eps"] for path in written]
    assert epsilons == [1e-3, 1e-12]


def test_networks_of_other_positions_share_words_only(tiny_tokenizer, tmp_path):
    networks = with_sharing("token")
    networks = dataclasses.replace(
        networks, generator=dataclasses.replace(networks.generator, max_position_embeddings=50)
    )
    params = random_params(networks)
    found = read_huggingface(*export_huggingface(tmp_path / "out", networks, params, tiny_tokenizer, Facts(0)))
    assert found.networks == networks
    assert_trees_equal(found.params, params)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad, folder):
    tensors = load_file(folder / WEIGHTS)
    name = "electra.encoder.layer.1.intermediate.dense.bias"
    tensors[name][3] = bad
    save_file(tensors, folder / WEIGHTS)
    assert f"{name} holds NaN or infinity" in refused(folder)


def test_a_header_whose_length_begins_as_a_pickle_does_is_no_pickle(folder):
    content = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    wanted = next(size for size in range(length, length + 2**17) if size.to_bytes(8, "little")[:2] == b"PK")
    header = content[8 : 8 + length].ljust(wanted)
    (folder / WEIGHTS).write_bytes(wanted.to_bytes(8, "little") + header + content[8 + length :])
    read_folder(folder)


def test_weights_are_for_whom_the_umask_lets(folders):
    assert (folders.discriminator / WEIGHTS).stat().st_mode == (folders.discriminator / CONFIG).stat().st_mode


def test_every_tensor_is_accounted_for(folder):
    tensors = load_file(folder / WEIGHTS)
    name = "electra.encoder.layer.1.attention.self.query.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, folder / WEIGHTS)
    assert f"missing there: {name}" in refused(folder)
    save_file({**tensors, "electra.pooler.weight": np.zeros(3, np.float32)}, folder / WEIGHTS)
    assert "unknown here: electra.pooler.weight" in refused(folder)
    save_file({**tensors, name: tensors[name][:5]}, folder / WEIGHTS)
    assert f"{name} is [5, 24] there and [24, 24] here" in refused(folder)
    save_file({}, folder / WEIGHTS)
    assert f"and {len(tensors) - 4} more" in refused(folder)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model_type": "bert"}, "a model of type 'bert', not 'electra'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"architectures": ["ElectraForMultipleChoice"]}, "architectures is"),
        ({"architectures": ...}, "architectures is"),
        ({"architectures": [["x"]]}, "architectures is"),
        ({"architectures": ["ElectraForTokenClassification"], "num_labels": "3"}, "num_labels do not number"),
        ({"architectures": ["ElectraForTokenClassification"], "id2label": {"0": "a", "2": "b"}}, "from 0 on"),
        ({"architectures": ["ElectraForTokenClassification"], "id2label": {"0": 5}}, "labels that are no text"),
        ({"architectures": ["ElectraForTokenClassification"], "classifier_dropout": 2}, "dropout must be in [0, 1)"),
        ({"hidden_size": "24"}, "hidden_size is '24'"),
        ({"num_attention_heads": 5}, "cannot be divided among 5 attention heads"),
        ({"hidden_size": 28}, "of another shape"),
        ({"num_hidden_layers": 4}, "missing there"),
        ({"num_hidden_layers": 2}, "unknown here"),
        ({"vocab_size": 60}, r"word_embeddings.weight is [61, 20] there and [60, 20] here"),
    ],
)
def test_a_wrong_config_is_refused(settings, sentence, folder):
    change(folder, **settings)
    assert sentence in refused(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model_type": 3}', b"[" * 100_000])
def test_a_config_that_is_none_is_refused(content, folder):
    (folder / CONFIG).write_bytes(content)
    refused(folder)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, -1])
def test_truncated_weights_are_refused(keep, folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    assert "is damaged or no safetensors file" in refused(folder)


def test_pickles_are_not_opened(folder):
    import pickle

    class Trap:
        def __reduce__(self):
            return (Path.touch, (folder / "sprung",))

    trap = pickle.dumps(Trap())
    (folder / "pytorch_model.bin").write_bytes(trap)
    read_huggingface(folder)
    (folder / WEIGHTS).unlink()
    sentence = refused(folder)
    assert "nothing is unpickled" in sentence
    assert "ElectraForPreTraining" in sentence
    (folder / WEIGHTS).write_bytes(trap)
    assert "is a pickle" in refused(folder)
    assert not (folder / "sprung").exists()


def test_folders_that_do_not_belong_together(folders, folder, tmp_path, tiny_tokenizer):
    assert "holds no generator" in refused(folders.discriminator, generator=folders.discriminator)
    assert "holds no discriminator" in refused(folders.generator, generator=folders.generator)
    assert "has no config.json" in refused(tmp_path)
    other = dataclasses.replace(TINY, vocab_size=60)
    networks = NetworksConfig(discriminator=other)
    export_huggingface(tmp_path / "out", networks, random_params(networks), tiny_tokenizer, Facts(0))
    assert "the tokenizer has 61 pieces, but the discriminator's vocabulary is of 60" in refused(
        tmp_path / "out" / "discriminator"
    )


@pytest.mark.parametrize(
    "setting",
    [{"position": "rope"}, {"norm": "pre"}, {"convolution_width": 3}],
    ids=lambda setting: next(iter(setting)),
)
def test_what_hugging_face_cannot_express_is_refused_by_name(setting, tiny_tokenizer, tmp_path):
    networks = NetworksConfig(discriminator=dataclasses.replace(TINY, **setting))
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=f"model.{name} is {value!r} and not"):
        export_huggingface(tmp_path / "out", networks, random_params(networks), tiny_tokenizer, Facts(0))
    assert list(tmp_path.iterdir()) == []


def test_what_a_loaded_model_says_is_what_its_networks_say(folders, tiny_tokenizer):
    """Against the networks applied by hand, whatever the lengths of the texts beside."""
    texts = ["the end of a day.", "and", "of the people and the day and the night of it all and so on for many more"]
    loaded = electra_jax.load(folders.discriminator)
    found = loaded.embed(texts)
    encoded = [tiny_tokenizer.encode(text).ids for text in texts]
    assert [hidden.shape for hidden in found] == [(len(ids), 24) for ids in encoded]
    assert len(encoded[2]) > 38  # cut into windows
    ids = jnp.array([[loaded.special.cls, *encoded[0], loaded.special.sep]])
    apply = quick_jit(lambda params, inputs: loaded.model.apply(params, inputs, method=Electra.discriminator_hidden))
    expected = apply({"params": loaded.params}, create_inputs(ids, loaded.special))
    np.testing.assert_allclose(found[0], expected[1:-1], atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_what_a_fine_tuned_model_says(task, folders, tiny_tokenizer):
    loaded = electra_jax.load(folders.tasks[task])
    special = loaded.special
    first, second = tiny_tokenizer.encode("a day").ids, tiny_tokenizer.encode("the end.").ids
    alone, pair = loaded.task_logits(["a day", ("a day", "the end.")])
    ids = np.array([[special.cls, *first, special.sep, *second, special.sep]], np.int32)
    expected = loaded.model.apply(
        {"params": loaded.params}, create_inputs(jnp.asarray(ids), special), method=Electra.task_logits
    )[0]
    if task == "sequence_classification":
        assert alone.shape == (3,)
        np.testing.assert_allclose(pair, expected, atol=1e-5)
    else:
        assert len(alone) == len(first)
        np.testing.assert_allclose(pair, expected[1:-1], atol=1e-5)
    with pytest.raises(UserError, match="has more than 38 tokens"):
        loaded.task_logits(["day " * 40])
    with pytest.raises(UserError, match="task_logits asks a fine-tuned head, and this one was pre-trained only"):
        electra_jax.load(folders.discriminator).task_logits(["a day"])
