"""Beginning with weights: what is taken, what is fresh, and that a resume comes before either."""

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from parity import TASKS, TINY, TINY_NETWORKS, random_params
from runs import STEPS, electra_jax, pretrain_args, start
from tiny_models import assert_trees_equal, make_config

from electra_jax.cli import main
from electra_jax.config import PretrainConfig, read_config
from electra_jax.interop.export import export_huggingface
from electra_jax.interop.model_card import Facts
from electra_jax.interop.portable import read_huggingface, write_imported
from electra_jax.model.sharing import Network, separate
from electra_jax.networks import NetworksConfig, networks_of
from electra_jax.pretrain.loading import load
from electra_jax.pretrain.warm_start import GivenWeights, begin_with
from electra_jax.settings import to_json
from electra_jax.text.wordpiece import WordPieceTokenizer


def config_of(networks: NetworksConfig, sharing: str = "all", **objective) -> PretrainConfig:
    """Settings of a run that trains networks of these sizes."""
    config = make_config(
        model=vars(networks.discriminator) | {"embedding_sharing": sharing},
        generator={"width_fraction": 0.5, "depth_fraction": 2 / 3, "num_attention_heads": 2},
        objective=objective,
    )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, length=32))


TARGET_GENERATOR = networks_of(config_of(TINY_NETWORKS)).generator


def weights_of(params, networks: NetworksConfig) -> GivenWeights:
    return GivenWeights(separate(params, networks), networks.task is None, "")


@pytest.mark.parametrize("sharing", ["none", "token", "all", "gdes"])
@pytest.mark.parametrize("given", ["generator", "discriminator"])
def test_one_network_is_taken_and_the_other_fresh_but_for_what_they_share(given, sharing):
    config = config_of(TINY_NETWORKS, sharing)
    wanted = networks_of(config)
    fresh = random_params(wanted, seed=1)
    alone = NetworksConfig(**{given: getattr(wanted, given)})
    source = separate(random_params(alone), alone)
    params = begin_with(GivenWeights(source, True, ""), fresh, wanted)
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    found, before = separate(params, wanted), separate(fresh, wanted)
    other = "generator" if given == "discriminator" else "discriminator"
    assert_close(found[given], source[given], 1e-6 if sharing == "gdes" else 0)
    assert_trees_equal(found[other].encoder, before[other].encoder)
    assert_trees_equal(found[other].head, before[other].head)
    shared = {
        "none": set(),
        "token": {"word_embeddings"},
        "gdes": {"word_embeddings", "position_embeddings"},
        "all": {"word_embeddings", "position_embeddings", "token_type_embeddings", "layer_norm"},
    }[sharing]
    for name in before[other].embeddings:
        expected = source[given] if name in shared else before[other]
        assert_close(found[other].embeddings[name], expected.embeddings[name], 1e-6)


def assert_close(left, right, tolerance):
    left, right = (tuple(tree) if isinstance(tree, Network) else tree for tree in (left, right))
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_a_fine_tuned_encoder_gets_a_fresh_head():
    config = config_of(TINY_NETWORKS)
    tuned = NetworksConfig(discriminator=networks_of(config).discriminator, task=TASKS["token_classification"])
    fresh = random_params(networks_of(config), seed=1)
    source = random_params(tuned)
    params = begin_with(weights_of(source, tuned), fresh, networks_of(config))
    assert_trees_equal(params["discriminator_encoder"], source["discriminator_encoder"])
    assert_trees_equal(params["discriminator_predictions"], fresh["discriminator_predictions"])
    assert "task_head" not in params


# --- the command, on a small data set whose vocabulary the weights have -------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_run):
    """A preset of absolute positions for the small data, and an imported model of both networks that fits it."""
    folder = tmp_path_factory.mktemp("warm")
    tokenizer = load(small_run.run).tokenizer
    networks = NetworksConfig(
        discriminator=dataclasses.replace(TINY, vocab_size=tokenizer.vocab_size),
        generator=dataclasses.replace(TARGET_GENERATOR, vocab_size=tokenizer.vocab_size),
    )
    settings = to_json(config_of(networks))
    settings["train"] |= {"steps": 6, "batch_size": 4}
    settings["runtime"] |= {"save_every": 2, "eval_every": 6, "eval_rows": 8, "log_every": 2, "tensorboard": False}
    (folder / "preset.py").write_text(
        "import json\nfrom electra_jax.config import PretrainConfig\nfrom electra_jax.settings import from_json\n"
        f"def get_config():\n    return from_json(PretrainConfig, json.loads({json.dumps(json.dumps(settings))}))\n"
    )
    params = random_params(networks)
    exported = export_huggingface(folder / "hf", networks, params, tokenizer, Facts(0))
    write_imported(folder / "both", read_huggingface(*exported))
    write_imported(folder / "alone", read_huggingface(exported[0]))
    return folder, networks, params


def pretrain(place, data: Path, workdir: Path, *more: str):
    return electra_jax("pretrain", "--config", place[0] / "preset.py", "--data", data, "--workdir", workdir, *more)


def refused(place, capsys, data: Path, workdir: Path, *more: str) -> str:
    """The sentence; nothing is compiled before it, so it needs no process of its own."""
    args = ["pretrain", "--config", place[0] / "preset.py", "--data", data, "--workdir", workdir, *more]
    assert main([str(arg) for arg in args]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert not workdir.exists()
    return sentence


def initial(place, small_run, workdir: Path, *more: str):
    """The parameters after a step at a rate of nothing, and what was printed."""
    still = ("--optimizer.learning-rate", "1e-30", "--train.steps", "1")
    found = pretrain(place, small_run.data, workdir, *still, *more)
    assert found.returncode == 0, found.stderr
    return load(workdir).params, found.stdout.decode()


def test_both_networks_of_an_imported_model_are_where_a_run_begins(place, small_run, tmp_path):
    folder, _, params = place
    found, printed = initial(place, small_run, tmp_path / "run", "--init-from", str(folder / "both"))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    assert "at step 0: discriminator and generator\n" in printed
    assert read_config(tmp_path / "run" / "config.json").train.init_from == str(folder / "both")


def test_a_discriminator_alone_gets_a_fresh_generator(place, small_run, tmp_path):
    folder, _, params = place
    found, printed = initial(place, small_run, tmp_path / "run", "--init-from", str(folder / "hf" / "discriminator"))
    assert "at step 0: discriminator; the generator is fresh\n" in printed
    for name in ("embeddings", "discriminator_encoder", "discriminator_predictions"):
        for a, b in zip(jax.tree.leaves(found[name]), jax.tree.leaves(params[name]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7)
    drawn = np.asarray(found["generator_encoder"]["layer"]["intermediate"]["kernel"])
    assert np.abs(drawn).max() <= 0.04  # cut at two standard deviations of .02: a fresh one


def test_a_run_is_where_another_begins(small_run, tmp_path):
    """The weights of its newest checkpoint; and a run without weights says that it starts from scratch."""
    source = Path(shutil.copytree(small_run.run, tmp_path / "source"))
    still = ("--optimizer.learning-rate", "1e-30", "--train.steps", "1")
    args = pretrain_args(small_run.data, tmp_path / "run", *still, "--init-from", str(source))
    found = electra_jax(*args)
    assert found.returncode == 0, found.stderr
    assert f"from the weights of {source} at step {STEPS}: discriminator and generator" in found.stdout.decode()
    for a, b in zip(jax.tree.leaves(load(tmp_path / "run").params), jax.tree.leaves(load(source).params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    fresh = electra_jax(*pretrain_args(small_run.data, tmp_path / "fresh", *still))
    assert f"starting from scratch in {tmp_path / 'fresh'}" in fresh.stdout.decode()
    # A checkpoint that was never finished is none: the weights are where it begins, not scratch.
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        (folder / "seal.json").unlink()
    again = electra_jax(*args)
    assert "from the weights of" in again.stdout.decode()


def test_the_order_is_resume_then_weights_then_scratch(place, small_run, tmp_path):
    folder, _, _ = place
    args = ("pretrain", "--config", folder / "preset.py", "--data", small_run.data, "--workdir", tmp_path / "run")
    moved = tmp_path / "weights"
    write_imported(moved, read_huggingface(folder / "hf" / "discriminator", folder / "hf" / "generator"))
    more = ("--init-from", str(moved), "--train.steps", "2000")
    process = start(*args, *more)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "2" / "seal.json").is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    printed = process.communicate()[0].decode()
    assert "starting in" in printed
    os.rename(moved, tmp_path / "away")  # a resume reads the weights no more
    again = start(*args, *more)
    while b"resuming" not in (line := again.stdout.readline()):
        assert line, again.communicate()
    again.terminate()
    again.communicate()
    scratch = electra_jax(*args)
    assert scratch.returncode == 2
    assert b"train.init_from" in scratch.stderr
    moved_to = start(*args, "--init-from", str(tmp_path / "away"), "--train.steps", "2000")
    while b"resuming" not in (line := moved_to.stdout.readline()):
        assert line, moved_to.communicate()
    moved_to.terminate()
    moved_to.communicate()
    assert read_config(tmp_path / "run" / "config.json").train.init_from == str(moved)
    other = electra_jax(*args[:-1], tmp_path / "other", *more)
    assert other.returncode == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ("--model.num-hidden-layers", "2"),
            "do not fit the run's discriminator (num_hidden_layers 3 there and 2 here",
        ),
        (("--generator.width-fraction", "1.0"), "do not fit the run's generator (hidden_size 12 there and 24 here"),
        (("--model.num-attention-heads", "2"), "num_attention_heads 4 there and 2 here"),
        (("--model.layer-norm-eps", "1e-6"), "layer_norm_eps"),
    ],
)
def test_weights_of_another_form_are_refused_before_anything_is_written(
    more, sentence, place, small_run, tmp_path, capsys
):
    weights = ("--init-from", str(place[0] / "both"))
    assert sentence in refused(place, capsys, small_run.data, tmp_path / "run", *weights, *more)


def test_weights_that_share_less_than_the_run_are_refused(place, small_run, tmp_path, capsys):
    _, networks, _ = place
    sizes = {
        n: dataclasses.replace(getattr(networks, n), embedding_sharing="none") for n in vars(networks) if n != "task"
    }
    apart = NetworksConfig(**sizes)
    tokenizer = load(small_run.run).tokenizer
    exported = export_huggingface(tmp_path / "hf", apart, random_params(apart), tokenizer, Facts(0))
    write_imported(tmp_path / "apart", read_huggingface(*exported))
    weights = ("--init-from", str(tmp_path / "apart"))
    sentence = refused(place, capsys, small_run.data, tmp_path / "run", *weights)
    assert "pass --model.embedding-sharing none" in sentence
    taken, _ = initial(place, small_run, tmp_path / "run", *weights, "--model.embedding-sharing", "none")
    assert {"embeddings", "discriminator_embeddings"} <= taken.keys()


def test_another_tokenizer_and_a_missing_folder_are_refused(place, small_run, tmp_path, capsys):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"piece{i}" for i in range(TINY.vocab_size - 5))]
    tokenizer = WordPieceTokenizer(pieces, lower_case=True, strip_accents=True, where="the test")
    export_huggingface(tmp_path / "hf", TINY_NETWORKS, random_params(TINY_NETWORKS), tokenizer, Facts(0))
    for folder, sentence in (("hf/discriminator", "trained with another tokenizer"), ("nowhere", "is not a run")):
        weights = ("--init-from", str(tmp_path / folder))
        assert sentence in refused(place, capsys, small_run.data, tmp_path / "run", *weights)
