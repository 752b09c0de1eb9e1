"""`electra-jax import` and `export`, as typed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parity import PIECES, TINY_NETWORKS, random_params
from runs import electra_jax as in_own_process
from runs import pretrain_args
from safetensors.numpy import load_file, save_file
from tiny_models import assert_trees_equal

import electra_jax
from electra_jax.cli import main
from electra_jax.interop.portable import read_huggingface, write_imported
from electra_jax.interop.stablehlo import load_stablehlo


def run(capsys, *args: str | Path) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_there_and_back(folders, tmp_path, capsys):
    imported, out = tmp_path / "run", tmp_path / "out"
    code, told, _ = run(
        capsys, "import", "--from", folders.discriminator, "--generator", folders.generator, "--out", imported
    )
    assert code == 0
    assert "discriminator 3 × 24" in told
    assert "the embeddings are shared; wordpiece of 61 pieces, uncased" in told
    assert_trees_equal(electra_jax.load(imported).params, random_params(TINY_NETWORKS))
    code, told, _ = run(capsys, "export", "--run", imported, "--out", out)
    assert code == 0
    assert told.split() == [str(out / "discriminator"), str(out / "generator")]
    for name, folder in (("discriminator", folders.discriminator), ("generator", folders.generator)):
        assert (out / name / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    card = (out / "discriminator" / "README.md").read_text()
    assert "format huggingface" in card
    assert "Nothing was measured" in card


def test_a_fine_tuned_model_goes_into_the_folder_itself(folders, tmp_path, capsys):
    run(capsys, "import", "--from", folders.tasks["token_classification"], "--out", tmp_path / "run")
    code, told, _ = run(capsys, "export", "--run", tmp_path / "run", "--out", tmp_path / "out")
    assert (code, told.strip()) == (0, str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["ElectraForTokenClassification"]
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}


def test_the_card_of_a_run_says_what_it_was_trained_on_and_what_was_measured(small_run, tmp_path, capsys):
    """A run of a form that Transformers knows, the small one's being of another."""
    form = ("--model.position", "absolute", "--model.norm", "post", "--model.convolution-width", "0")
    args = pretrain_args(small_run.data, tmp_path / "run", *form, "--train.steps", "10")
    in_own_process(*args, check=True)
    code, _, _ = run(capsys, "export", "--run", tmp_path / "run", "--out", tmp_path / "out")
    assert code == 0
    card = (tmp_path / "out" / "generator" / "README.md").read_text()
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"| detection AUC, against its own generator | {line['eval/rtd_auc']:.4f} |" in card
    assert "`corpus.txt`: " in card
    assert str(small_run.corpus.parent) not in card.split("## Training")[0]
    assert '"mask_prob": 0.15' in card
    assert "10 of 10 steps of 16 rows of 32 tokens" in card
    refused = run(capsys, "export", "--run", small_run.run, "--out", tmp_path / "other")
    assert refused[0] == 2
    assert "model.position is 'rope' and not 'absolute', model.norm is 'pre' and not 'post'" in refused[2]
    assert not (tmp_path / "other").exists()


def test_a_run_of_any_form_is_exported_as_functions(small_run, tmp_path, capsys):
    code, told, _ = run(capsys, "export", "--run", small_run.run, "--format", "stablehlo", "--out", tmp_path / "out")
    assert (code, told.strip()) == (0, str(tmp_path / "out"))
    exported, ours = load_stablehlo(tmp_path / "out"), electra_jax.load(small_run.run)
    special, text = ours.special, "The chef ate the meal in Marby."
    ids = np.array([[special.cls, *exported.tokenizer.encode(text).ids, special.sep]])
    found = 1 / (1 + np.exp(-np.asarray(exported.discriminator(ids))[0, 1:-1]))
    np.testing.assert_allclose(found, [token.probability for token in ours.detect([text])[0].tokens], atol=1e-5)


def shorten(folder: Path) -> None:
    """A good vocabulary of one piece less."""
    (folder / "vocab.txt").write_text("\n".join(PIECES[:-1]) + "\n")
    (folder / "tokenizer.json").unlink()


def rename(folder: Path) -> None:
    """BERT's tensors under settings that say ELECTRA."""
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("electra.", "bert."): value for name, value in tensors.items()}
    save_file(renamed, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: os.truncate(folder / "model.safetensors", 9000), "is damaged or no safetensors file"),
        (lambda folder: os.truncate(folder / "model.safetensors", 60), "is damaged or no safetensors file"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "of type 'bert'"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "nothing is unpickled"),
        (lambda folder: shorten(folder), "the tokenizer has 60 pieces, but the discriminator's vocabulary is of 61"),
        (lambda folder: rename(folder), "unknown here: bert.embeddings"),
        (lambda folder: shutil.rmtree(folder), "has no config.json"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_leaves_nothing(change, sentence, folders, tmp_path, capsys):
    folder = Path(shutil.copytree(folders.discriminator, tmp_path / "model"))
    change(folder)
    code, told, error = run(capsys, "import", "--from", folder, "--out", tmp_path / "run")
    assert (code, told) == (2, "")
    assert sentence in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"model"}


@pytest.mark.parametrize("command", ["import", "export", "stablehlo"])
def test_a_disk_that_takes_no_more_is_one_sentence_and_leaves_nothing(command, folders, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    write_imported(run, read_huggingface(folders.discriminator))
    args = {
        "import": ("import", "--from", folders.discriminator, "--out", out),
        "export": ("export", "--run", run, "--out", out),
        "stablehlo": ("export", "--run", run, "--format", "stablehlo", "--out", out),
    }[command]
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000));"
    program += "from electra_jax.cli import entry; entry()"
    # Python would keep what it compiles, as far as the limit lets it, and trip over the half of a module ever after.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run([sys.executable, "-c", program, *map(str, args)], capture_output=True, text=True, env=env)
    assert found.returncode == 1
    assert "no space left on the disk" in found.stderr
    assert found.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_options_that_do_not_go_together(folders, tmp_path, capsys):
    out = ("--out", tmp_path / "run")
    for args in (
        ("--format", "tf1"),
        ("--format", "tf1", "--vocab", "v", "--generator", "g"),
        ("--vocab", "vocab.txt"),
        ("--cased",),
        ("--head-size", "32"),
    ):
        code, _, error = run(capsys, "import", "--from", folders.discriminator, *out, *args)
        assert code == 2
        assert "vocab" in error
    assert run(capsys, "import", "--from", folders.discriminator.parent, *out)[2].endswith(
        f"name {folders.discriminator}\n"
    )
    assert "there is no such folder" in run(capsys, "import", "--from", tmp_path / "nowhere", *out)[2]
    (tmp_path / "tf").mkdir()
    (tmp_path / "tf" / "model.ckpt-1.index").touch()
    assert "--format tf1" in run(capsys, "import", "--from", tmp_path / "tf", *out)[2]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    code, _, error = run(capsys, "import", "--from", folders.discriminator, "--out", tmp_path / "full")
    assert code == 2
    assert "exists already" in error
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    assert run(capsys, "export", "--run", folders.discriminator, "--step", "3", *out)[0] == 2
    assert not (tmp_path / "run").exists()
